/* SPDX-License-Identifier: MIT */
/* redirect.c - the drivers there are. */
#include "network/redirect.h"

#include <string.h>

#include "basic/str.h"

static const struct fm_redirect_ops *const drivers[] = {
	&fm_redirect_dnat,  &fm_redirect_dns,    &fm_redirect_haproxy, &fm_redirect_openflow, &fm_redirect_rest,
	&fm_redirect_route, &fm_redirect_tunnel, &fm_redirect_vxlan,   &fm_redirect_webhook,  NULL,
};

const struct fm_redirect_ops *fm_redirect_driver(const char *name)
{
	for (size_t i = 0; drivers[i]; i++)
		if (fm_streq(drivers[i]->name, name))
			return drivers[i];
	return NULL;
}

int fm_redirect_driver_of(const json_t *action, const struct fm_redirect_ops **ret, struct fm_error *err)
{
	const char *name = json_string_value(json_object_get(action, "driver"));

	if (!name)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an action on the network without \"driver\"");
	*ret = fm_redirect_driver(name);
	if (!*ret)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no redirection driver '%.32s'", name);
	return 0;
}
