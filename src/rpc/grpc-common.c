/* SPDX-License-Identifier: MIT */
/*
 * grpc-common.c - design note.
 *
 * gRPC counts its initialisations itself, so that no state of ours is needed. Its library prints to stderr on its own account (refused
 * handshakes, for one): our callers get every error as a value, so that it is silenced, unless GRPC_VERBOSITY or GRPC_TRACE ask for it.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "rpc/grpc-common.h"
#include "rpc/wire.h"

#define SEVERITY_NONE ((gpr_log_severity)(GPR_LOG_SEVERITY_ERROR + 1))

void fm_grpc_ref(sigset_t *saved_mask)
{
	sigset_t all;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, saved_mask);
	if (!getenv("GRPC_VERBOSITY") && !getenv("GRPC_TRACE"))
		gpr_set_log_verbosity(SEVERITY_NONE);
	grpc_init();
}

void fm_grpc_unmask(const sigset_t *saved_mask)
{
	(void)pthread_sigmask(SIG_SETMASK, saved_mask, NULL);
}

void fm_grpc_unref(void)
{
	grpc_shutdown();
}

gpr_timespec fm_grpc_in_ms(int64_t ms)
{
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

grpc_arg fm_grpc_arg_int(const char *key, int value)
{
	/* gRPC copies the key; its struct is not const only for want of a qualifier */
	return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value };
}

grpc_arg fm_grpc_arg_str(const char *key, const char *value)
{
	return (grpc_arg){ .type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)key, .value.string = (char *)(uintptr_t)value };
}

int fm_grpc_pack(const ProtobufCMessage *message, grpc_byte_buffer **ret, struct fm_error *err)
{
	uint8_t *data = NULL;
	size_t n = 0;
	grpc_slice slice;

	if (fm_wire_pack(message, &data, &n, err) < 0)
		return -1;
	slice = grpc_slice_new(data, n, free); /* takes the memory over */
	*ret = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return 0;
}

int fm_grpc_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer, ProtobufCMessage **ret, struct fm_error *err)
{
	grpc_byte_buffer_reader reader;
	grpc_slice slice;
	int r;

	if (buffer->type != GRPC_BB_RAW || buffer->data.raw.compression != GRPC_COMPRESS_NONE ||
	    !grpc_byte_buffer_reader_init(&reader, buffer))
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "cannot decode a %s: compressed messages are not supported", type->short_name);
	slice = grpc_byte_buffer_reader_readall(&reader);
	r = fm_wire_unpack(type, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice), ret, err);
	grpc_slice_unref(slice);
	grpc_byte_buffer_reader_destroy(&reader);
	return r;
}
