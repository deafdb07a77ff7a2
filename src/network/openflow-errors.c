/* SPDX-License-Identifier: MIT */
/* openflow-errors.c - a switch's {type, code} in words. Only what can be the answer to something that is sent from here has words of its own. */
#include <stdio.h>

#include "network/openflow-codec.h"

struct words {
	uint16_t type;
	int code; /* -1: the type itself */
	const char *text;
	enum fm_code meaning; /* FM_OK: the usual one */
};

static const struct words words[] = {
	{ 0, -1, "no common language", FM_E_UNIMPLEMENTED },
	{ 0, 0, "no common version of OpenFlow", FM_E_UNIMPLEMENTED },
	{ 0, 1, "not permitted", FM_E_PERMISSION_DENIED },
	{ 1, -1, "bad request", FM_OK },
	{ 1, 0, "version of the message", FM_E_UNIMPLEMENTED },
	{ 1, 1, "type of the message is not supported", FM_E_UNIMPLEMENTED },
	{ 1, 2, "this kind of multipart is not supported", FM_E_UNIMPLEMENTED },
	{ 1, 5, "not permitted", FM_E_PERMISSION_DENIED },
	{ 1, 6, "wrong length", FM_OK },
	{ 1, 9, "there is no such table", FM_OK },
	{ 1, 10, "this connection's role is slave", FM_E_PERMISSION_DENIED },
	{ 1, 11, "there is no such port", FM_OK },
	{ 1, 13, "multipart is too long", FM_E_RESOURCE_EXHAUSTED },
	{ 2, -1, "bad action", FM_OK },
	{ 2, 0, "type of action is not supported", FM_E_UNIMPLEMENTED },
	{ 2, 1, "wrong length", FM_OK },
	{ 2, 4, "there is no such port to send to", FM_OK },
	{ 2, 5, "bad argument", FM_OK },
	{ 2, 6, "not permitted", FM_E_PERMISSION_DENIED },
	{ 2, 7, "too many actions", FM_E_RESOURCE_EXHAUSTED },
	{ 2, 9, "there is no such group", FM_OK },
	{ 2, 10, "the match does not say that packets have this field", FM_OK },
	{ 2, 11, "actions in this order are not supported", FM_E_UNIMPLEMENTED },
	{ 2, 13, "this field cannot be set", FM_E_UNIMPLEMENTED },
	{ 2, 14, "wrong length of a field to set", FM_OK },
	{ 2, 15, "wrong value of a field to set", FM_OK },
	{ 3, -1, "bad instruction", FM_OK },
	{ 3, 0, "unknown instruction", FM_E_UNIMPLEMENTED },
	{ 3, 1, "instruction is not supported", FM_E_UNIMPLEMENTED },
	{ 3, 7, "wrong length", FM_OK },
	{ 3, 8, "not permitted", FM_E_PERMISSION_DENIED },
	{ 4, -1, "bad match", FM_OK },
	{ 4, 0, "type of match is not supported", FM_E_UNIMPLEMENTED },
	{ 4, 1, "wrong length", FM_OK },
	{ 4, 6, "field is not supported", FM_E_UNIMPLEMENTED },
	{ 4, 7, "value is not supported", FM_OK },
	{ 4, 8, "mask is not supported", FM_E_UNIMPLEMENTED },
	{ 4, 9, "a field needs another one", FM_OK },
	{ 4, 10, "a field is there twice", FM_OK },
	{ 4, 11, "not permitted", FM_E_PERMISSION_DENIED },
	{ 5, -1, "flow-mod failed", FM_OK },
	{ 5, 1, "the table is full", FM_E_RESOURCE_EXHAUSTED },
	{ 5, 2, "there is no such table", FM_OK },
	{ 5, 3, "it overlaps with another flow", FM_OK },
	{ 5, 4, "not permitted", FM_E_PERMISSION_DENIED },
	{ 5, 5, "time-out is not supported", FM_E_UNIMPLEMENTED },
	{ 5, 6, "command is not supported", FM_E_UNIMPLEMENTED },
	{ 5, 7, "flag is not supported", FM_E_UNIMPLEMENTED },
	{ 11, -1, "role refused", FM_OK },
	{ 11, 0, "somebody has claimed it with a newer generation", FM_E_ABORTED },
	{ 11, 1, "roles are not supported", FM_E_UNIMPLEMENTED },
	{ 11, 2, "there is no such role", FM_OK },
	{ 14, -1, "bad property", FM_OK },
	{ 17, -1, "bundle failed", FM_OK },
	{ 17, 1, "not permitted", FM_E_PERMISSION_DENIED },
	{ 17, 2, "there is no such bundle", FM_OK },
	{ 17, 3, "the bundle exists", FM_OK },
	{ 17, 4, "the bundle is closed", FM_OK },
	{ 17, 5, "too many bundles", FM_E_RESOURCE_EXHAUSTED },
	{ 17, 6, "this control of bundles is not supported", FM_E_UNIMPLEMENTED },
	{ 17, 7, "flags of the bundle are not supported, or differ", FM_E_UNIMPLEMENTED },
	{ 17, 8, "wrong length of a message in it", FM_OK },
	{ 17, 9, "wrong number of a message in it", FM_OK },
	{ 17, 10, "a message in it cannot be in a bundle", FM_E_UNIMPLEMENTED },
	{ 17, 11, "messages in it are in conflict", FM_OK },
	{ 17, 12, "too many messages in it", FM_E_RESOURCE_EXHAUSTED },
	{ 17, 13, "a message in it failed", FM_OK },
	{ 17, 14, "it was not committed in time", FM_E_ABORTED },
	{ 17, 15, "another bundle is in the way", FM_E_ABORTED },
	{ 0xffff, -1, "an experimenter's error", FM_OK },
};

static const struct words *find(unsigned type, int code)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (words[i].type == type && words[i].code == code)
			return &words[i];
	return NULL;
}

const char *fm_of_error_text(unsigned type, unsigned code, char *buf, size_t cap)
{
	const struct words *kind = find(type, -1), *what = find(type, (int)code);

	(void)snprintf(buf, cap, "%s%s%s (%u/%u)", kind ? kind->text : "unknown error", what ? ": " : "", what ? what->text : "", type,
	               code);
	return buf;
}

enum fm_code fm_of_error_code(unsigned type, unsigned code)
{
	const struct words *kind = find(type, -1), *what = find(type, (int)code);
	enum fm_code meaning = what ? what->meaning : kind ? kind->meaning : FM_OK;

	return meaning == FM_OK ? FM_E_FAILED_PRECONDITION : meaning;
}
