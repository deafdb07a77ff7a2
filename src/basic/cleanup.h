/* SPDX-License-Identifier: MIT */
/*
 * cleanup.h - scope-bound ownership.
 *
 *   _fm_free_ char *s = NULL;      free() at end of scope
 *   _fm_close_ int fd = -1;        close() at end of scope
 *   return FM_TAKE_PTR(s);         move out: s becomes NULL, nothing is freed
 *   *ret_fd = FM_TAKE_FD(fd);      move out: fd becomes -1
 *
 * Every destructor used with these keeps errno and accepts NULL / -1.
 * FM_DEFINE_CLEANUP(type *, fm_foo_unref) defines fm_foo_unrefp() for _fm_cleanup_(fm_foo_unrefp).
 */
#ifndef FM_BASIC_CLEANUP_H
#define FM_BASIC_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _fm_cleanup_(f) __attribute__((cleanup(f)))

#define FM_DEFINE_CLEANUP(type, func)                                                                                                      \
	static inline void func##p(type *p)                                                                                                \
	{                                                                                                                                  \
		int saved = errno;                                                                                                         \
		if (*p)                                                                                                                    \
			func(*p);                                                                                                          \
		errno = saved;                                                                                                             \
	}                                                                                                                                  \
	struct fm_require_semicolon

static inline void fm_freep(void *p)
{
	int saved = errno;
	free(*(void **)p);
	errno = saved;
}

static inline void fm_closep(int *fd)
{
	int saved = errno;
	if (*fd >= 0)
		(void)close(*fd);
	errno = saved;
}

static inline void fm_fclosep(FILE **f)
{
	int saved = errno;
	if (*f)
		(void)fclose(*f);
	errno = saved;
}

static inline void fm_closedirp(DIR **d)
{
	int saved = errno;
	if (*d)
		(void)closedir(*d);
	errno = saved;
}

#define _fm_free_     _fm_cleanup_(fm_freep)
#define _fm_close_    _fm_cleanup_(fm_closep)
#define _fm_fclose_   _fm_cleanup_(fm_fclosep)
#define _fm_closedir_ _fm_cleanup_(fm_closedirp)

#define FM_TAKE_PTR(p)                                                                                                                     \
	({                                                                                                                                 \
		__typeof__(p) fm_taken_ = (p);                                                                                             \
		(p) = NULL;                                                                                                                \
		fm_taken_;                                                                                                                 \
	})
#define FM_TAKE_FD(fd)                                                                                                                     \
	({                                                                                                                                 \
		int fm_taken_ = (fd);                                                                                                      \
		(fd) = -1;                                                                                                                 \
		fm_taken_;                                                                                                                 \
	})

#define FM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
