/* SPDX-License-Identifier: MIT */
/* limits.h - every limit on what an outsider can influence, in one place, with its reason. */
#ifndef FM_BASIC_LIMITS_H
#define FM_BASIC_LIMITS_H

#define FM_MAX_HOSTS               4096
#define FM_MAX_CONTAINERS_PER_HOST 4096
#define FM_MAX_MIGRATIONS_ACTIVE   64         /* a manager's worker threads */
#define FM_MAX_RPC_MESSAGE_BYTES   (4u << 20) /* gRPC's own default */
#define FM_MAX_CONFIG_BYTES        (1u << 20) /* an OCI config.json */
#define FM_MAX_TREE_PROCESSES      4096
#define FM_MAX_FRAME_BYTES         (1u << 20) /* one frame of the page stream */
#define FM_MAX_IMAGE_FILE_BYTES    (64ull << 30)
#define FM_MAX_IMAGE_FILES         65536
#define FM_MAX_PATH                4096
#define FM_MAX_NAME                64
#define FM_MAX_JOURNAL_BYTES       (4u << 20)
#define FM_MAX_LABELS              64
#define FM_MAX_NEIGHBOURS          1024
#define FM_MAX_VOLUMES             32            /* that travel with one container */
#define FM_MAX_VOLUME_BYTES        (16ull << 40) /* of content in one pass over one of them; a full disk comes first */
#define FM_MAX_PUSH_STREAMS        16            /* of one migration: a thread, a connection and a store each, at both ends */
#define FM_MAX_THROTTLE_PERCENT    99            /* of a container's processor time: it may be slowed down, not stopped */
#define FM_MAX_DNS_VALUES          16            /* of one name and type that are looked at; a container has one */
#define FM_MAX_DNS_RECORDS         512           /* of one answer of a name server; with more it is not looked at */
#define FM_MAX_DNS_UNDO_BYTES      2048          /* of the line that undoes a change of a record; the longest names fit */

#endif
