/* SPDX-License-Identifier: MIT */
/* pagemap-abi.h - the PAGEMAP_SCAN ioctl of /proc/PID/pagemap (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst), which the headers of older distributions do not have yet. */
#ifndef FM_BASIC_PAGEMAP_ABI_H
#define FM_BASIC_PAGEMAP_ABI_H

#include <stdint.h>
#include <sys/ioctl.h>

struct fm_page_region {
	uint64_t start, end;
	uint64_t categories;
};

struct fm_pm_scan_arg {
	uint64_t size, flags, start, end, walk_end;
	uint64_t vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define FM_PAGEMAP_SCAN          _IOWR('f', 16, struct fm_pm_scan_arg)
#define FM_PM_SCAN_WP_MATCHING   1u
#define FM_PM_SCAN_CHECK_WPASYNC 2u
#define FM_PAGE_IS_WPALLOWED     (1u << 0)
#define FM_PAGE_IS_WRITTEN       (1u << 1)
#define FM_PAGE_IS_FILE          (1u << 2)
#define FM_PAGE_IS_PRESENT       (1u << 3)
#define FM_PAGE_IS_SWAPPED       (1u << 4)
#define FM_PAGE_IS_PFNZERO       (1u << 5)
#define FM_PAGE_IS_HUGE          (1u << 6)
#define FM_PAGE_IS_SOFT_DIRTY    (1u << 7)
#define FM_PAGE_IS_GUARD         (1u << 8) /* Linux 6.15 */

#endif
