/* SPDX-License-Identifier: MIT */
/*
 * stream.h - the framed, authenticated, checksummed connection between two agents (docs/PROTOCOL.md).
 *
 * A frame is a 32-byte little-endian header {u32 magic "FMS1", u16 type, u16 flags, u32 length, u32 crc32c of the payload, u64 a, u64 b} and `length` (<= FM_MAX_FRAME_BYTES)
 * bytes. `a` and `b` belong to the type (a pid and an address, a size, …). Transport: TLS 1.3 with both certificates checked (or plain when tls is NULL: only tests).
 * The first frame each way is HELLO with the migration's token; anything else is refused.
 *
 * Threads: one thread may receive while others send (frames are never interleaved). Every blocking call ends at its deadline or when cancel_fd is readable.
 * Corrupt input (bad magic, length, checksum, unknown type) is DATA_LOSS and the stream is unusable afterwards (but fm_stream_send_error still works); a lost peer is UNAVAILABLE.
 * Who owns the stream reports failures to the peer (fm_stream_send_error), not the functions that use it; page-source.h is the exception.
 */
#ifndef FM_SYNC_STREAM_H
#define FM_SYNC_STREAM_H

#include <stdint.h>
#include <stddef.h>

#include "basic/error.h"

enum fm_frame {
	FM_FRAME_HELLO = 1, /* a: protocol version, b: struct fm_stream_hello; payload: token + "\n" + migration id */
	FM_FRAME_HELLO_OK = 2,
	FM_FRAME_ERROR = 3, /* a: enum fm_code; payload: message "\n" hint "\n" phase. Either side, at any time; the sender gives up. */
	/* control stream */
	FM_FRAME_FILE_ENTRY = 10, /* see filetree.h */
	FM_FRAME_FILE_DATA = 11,
	FM_FRAME_FILE_DELETE = 12,
	FM_FRAME_FILES_END = 13, /* a: pass */
	FM_FRAME_FILES_OK = 14,
	FM_FRAME_FILES_HAVE = 15, /* destination, first of all: contents that need not be sent, see file-known.h */
	FM_FRAME_HAVE_END = 16,   /* a: their number; payload: the secret of the hashes, nothing when there are none */
	FM_FRAME_FILE_KNOWN = 17, /* source, in place of a file's FILE_DATA; payload: its content's hash */
	FM_FRAME_VOLUME = 18,     /* the next tree is a volume; a: its number, from 0; payload: its path */
	FM_FRAME_MEMORY = 19,     /* the next trees are tmpfs mounts of the parent; a: pass; payload: which, see migration/memory-files.h */
	FM_FRAME_IMAGE_BEGIN = 20, /* a: size; payload: file name */
	FM_FRAME_IMAGE_DATA = 21,
	FM_FRAME_IMAGES_END = 22, /* a: number of files, b: total bytes */
	FM_FRAME_NEIGHBOURS = 23, /* a: count; payload: see network/endpoints.h */
	FM_FRAME_RESTORE = 24,    /* everything is there: restore and report */
	FM_FRAME_RESTORED = 25,   /* destination: restored, not run; a: µs it took */
	FM_FRAME_COMMIT = 26,     /* source: journaled; ownership is the destination's */
	FM_FRAME_RUNNING = 27,    /* destination: port open, tree resumed; a: µs from COMMIT */
	FM_FRAME_PREPARED = 28,   /* destination: files are here and the parent stands */
	FM_FRAME_BYE = 29,
	FM_FRAME_ABORT = 30, /* source, before COMMIT */
	FM_FRAME_FLOWS = 31, /* source, before COMMIT, where it tracks connections; a: count; payload: see network/conntrack.h */
	/* page stream */
	FM_FRAME_PAGE_REQUEST = 40, /* a: pid in the tree's namespace, b: address; payload: u32 n_pages (<= 256), u32 urgent */
	/* The answer to one request: PAGES and PAGES_GONE frames that cover its range exactly once, in order. a: as asked, b: address of the frame's first page. */
	FM_FRAME_PAGES = 41,      /* payload: pages (at least 1; all that were asked unless some are gone) */
	FM_FRAME_PAGES_GONE = 42, /* payload: u32 n_pages: not mapped at the source (zero or never there) */
	FM_FRAME_PAGES_DONE = 43, /* destination: no more requests */
	/* push stream: see push.h */
	FM_FRAME_PAGES_PUSH =
	        44, /* source: a: pid in the tree's namespace, b: round, bit 63: the last one, the tree is frozen; payload: a chunk (page-codec.h) */
	FM_FRAME_ROUND_END = 45, /* source: a: round, b: 1 = the last one, the tree is frozen */
	FM_FRAME_ROUND_OK = 46,  /* destination: a: round; all of it is in the store */
	/* At the beginning of each push stream: with what secret pages are hashed, and what the destination's store has. */
	FM_FRAME_PAGES_HAVE =
	        47, /* destination: a: pid in the tree's namespace, b: address; payload: XXH3-128 of each page from there on (u64 lo, u64 hi; 0, 0: zeros) */
	FM_FRAME_PAGES_HAVE_END = 48, /* destination: a: how many pages that were */
	FM_FRAME_PAGES_SECRET =
	        49, /* source, first of all; a: 1: the destination may look for pages in files, 0: it is not worth it; payload: hash-secret.h */
	_FM_FRAME_MAX
};
#define FM_PAGE_BYTES            4096u /* a page of the protocol, whatever the host's */
#define FM_PAGES_PER_REQUEST_MAX 256u  /* one frame */
enum fm_stream_role { FM_STREAM_CONTROL = 1, FM_STREAM_PAGES = 2, FM_STREAM_PUSH = 3 };

/* What a stream is for. Of push streams there are several: which of how many, and how many times it was dialled before, so that one that takes a broken one's place is told from a mistake. Others: 0. */
struct fm_stream_hello {
	enum fm_stream_role role;
	unsigned index, count; /* index < count <= FM_MAX_PUSH_STREAMS */
	uint32_t redials;
};

struct fm_stream;
struct fm_stream_tls {
	const char *ca_pem_path, *cert_pem_path, *key_pem_path;
};

/* Client: connect, TLS, send HELLO, await HELLO_OK. The server's certificate must name the host part of address (as a DNS name or an IP address). */
int fm_stream_connect(const char *address, const struct fm_stream_tls *tls, const char *token, const char *migration_id,
                      const struct fm_stream_hello *what, int timeout_ms, struct fm_stream **ret, struct fm_error *err);
/* Server: take an accepted socket (owned from now on, also on failure), TLS, await HELLO, compare the token in constant time, answer. The caller dispatches on *ret_what. */
int fm_stream_accept(int fd, const struct fm_stream_tls *tls, const char *token, const char *migration_id, int timeout_ms,
                     struct fm_stream_hello *ret_what, struct fm_stream **ret, struct fm_error *err);
/* Over an existing stream socket without TLS and HELLO (tests, fuzzing). fd is owned from now on, also on failure. */
int fm_stream_from_fd(int fd, struct fm_stream **ret, struct fm_error *err);
void fm_stream_free(struct fm_stream *s);
/* Wake any thread blocked in this stream with UNAVAILABLE (shutdown of the socket). Safe from any thread. */
void fm_stream_shutdown(struct fm_stream *s);
/* How long a silent peer is believed to be alive from now on. A stream starts with 10 s for pages and 120 s for control, where the receiver may be busy with its disk; in a freeze a
 * service waits for it, so less is right. Another peer than a TCP one has no such time. */
void fm_stream_set_patience(struct fm_stream *s, unsigned ms);

struct fm_frame_header {
	uint16_t type, flags;
	uint32_t length;
	uint64_t a, b;
};
/* timeout_ms < 0: wait for ever. A deadline in the middle of a frame leaves the stream unusable for sending. */
int fm_stream_send(struct fm_stream *s, enum fm_frame type, uint64_t a, uint64_t b, const void *payload, size_t length, int timeout_ms,
                   struct fm_error *err);
/* Receives into buf (cap >= FM_MAX_FRAME_BYTES unless the caller knows better; a longer frame is DATA_LOSS). FM_FRAME_ERROR is turned into *err (code and text of the peer) and -1.
 * timeout_ms < 0: wait for ever (until cancel). After DEADLINE_EXCEEDED and CANCELLED it may be called again, with the same buf (half a payload may be in it). */
int fm_stream_recv(struct fm_stream *s, struct fm_frame_header *ret, void *buf, size_t cap, int timeout_ms, int cancel_fd,
                   struct fm_error *err);
/* recv and insist on one type: another is DATA_LOSS, but ABORT where it is not expected is CANCELLED */
int fm_stream_expect(struct fm_stream *s, enum fm_frame type, struct fm_frame_header *ret, void *buf, size_t cap, int timeout_ms,
                     int cancel_fd, struct fm_error *err);
/* For tests of what is above: the next frame that is sent arrives damaged. The sending thread. */
void fm_stream_damage_next(struct fm_stream *s);
/* Report a failure to the peer; best effort, never blocks longer than 1 s. */
void fm_stream_send_error(struct fm_stream *s, const struct fm_error *e);
/* bytes on the wire so far, both directions, TLS records counted where known (payload + headers otherwise) */
uint64_t fm_stream_bytes(const struct fm_stream *s);

const char *fm_frame_to_string(unsigned type);

#endif
