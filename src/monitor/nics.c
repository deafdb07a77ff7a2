/* SPDX-License-Identifier: MIT */
/* nics.c - see nics.h. */
#include "monitor/nics.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "basic/str.h"

enum kind { IGNORED, SOFTWARE, HARDWARE };

static bool ask(int fd, const char *name, void *command)
{
	struct ifreq ifr = { .ifr_data = command };

	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	return ioctl(fd, SIOCETHTOOL, &ifr) == 0;
}

static enum kind kind_of(int fd, const char *name)
{
	static const char *const ignored[] = {
		"bridge", "tun", "vxlan", "ifb", "dummy", "openvswitch", "ip_gre", "ipip", "802.1Q VLAN Support", "bonding", "wireguard"
	};
	struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq ifr = { 0 };

	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0 || (ifr.ifr_flags & IFF_LOOPBACK) || !(ifr.ifr_flags & IFF_UP))
		return IGNORED;
	if (!ask(fd, name, &info))
		return SOFTWARE;
	for (size_t i = 0; i < FM_ARRAY_SIZE(ignored); i++)
		if (fm_streq(info.driver, ignored[i]))
			return IGNORED;
	return info.bus_info[0] && !fm_streq(info.bus_info, "N/A") ? HARDWARE : SOFTWARE;
}

static uint64_t capacity_of(int fd, const char *name)
{
	struct ethtool_cmd link = { .cmd = ETHTOOL_GSET };
	uint32_t mbit;

	if (!ask(fd, name, &link))
		return 0;
	mbit = (uint32_t)link.speed_hi << 16 | link.speed; /* and not the header's function, which shifts an int too far */
	return mbit == 0 || mbit == UINT16_MAX || mbit == (uint32_t)SPEED_UNKNOWN ? 0 : (uint64_t)mbit * 125000;
}

void fm_nics_find(struct fm_nics *ret, bool (*is_endpoint)(void *userdata, const char *name), void *userdata)
{
	_fm_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct if_nameindex *all = if_nameindex();
	enum kind wanted = SOFTWARE;

	*ret = (struct fm_nics){ 0 };
	for (struct if_nameindex *i = all; fd >= 0 && i && i->if_name; i++) {
		enum kind kind = kind_of(fd, i->if_name);
		if (kind < wanted || is_endpoint(userdata, i->if_name))
			continue;
		if (kind > wanted) { /* one of hardware: those before it do not count */
			*ret = (struct fm_nics){ 0 };
			wanted = kind;
		}
		if (ret->n == FM_NICS_MAX)
			break;
		(void)snprintf(ret->name[ret->n++], sizeof(ret->name[0]), "%.15s", i->if_name);
		ret->capacity_bytes_per_s += capacity_of(fd, i->if_name);
	}
	if (all)
		if_freenameindex(all);
}

bool fm_nics_has(const struct fm_nics *n, const char *name)
{
	for (size_t i = 0; i < n->n; i++)
		if (fm_streq(n->name[i], name))
			return true;
	return false;
}
