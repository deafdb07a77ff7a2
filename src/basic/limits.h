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
#define FM_MAX_NEIGHBOURS          1024          /* of one container's endpoints together */
#define FM_MAX_ENDPOINTS           8             /* of one container */
#define FM_MAX_VOLUMES             32            /* that travel with one container */
#define FM_MAX_VOLUME_BYTES        (16ull << 40) /* of content in one pass over one of them; a full disk comes first */
#define FM_MAX_PUSH_STREAMS        16            /* of one migration: a thread, a connection and a store each, at both ends */
#define FM_MAX_THROTTLE_PERCENT    99            /* of a container's processor time: it may be slowed down, not stopped */
/* OpenFlow: what is asked of a switch at once, and what one may answer */
#define FM_MAX_OF_ACTIONS         16u        /* of a flow that is written from here */
#define FM_MAX_OF_SWITCHES        64u        /* that change together */
#define FM_MAX_OF_BUNDLE_MESSAGES 1024u      /* in one change of one switch */
#define FM_MAX_OF_OUTPUT_BYTES    (2u << 20) /* waiting to be sent: a whole change, and echoes of a switch that reads nothing */
#define FM_MAX_OF_FLOWS           65536u     /* in one answer */
#define FM_MAX_OF_PORTS           4096u      /* in one answer */
#define FM_MAX_OF_EVENTS          256u       /* of ports, not asked for yet; the oldest go, and it is told */

/* the topology graph, network/topology.h */
#define FM_MAX_TOPOLOGY_NODES   8192 /* hosts and switches of one topology: all hosts, and as many switches */
#define FM_MAX_TOPOLOGY_LINKS   16384
#define FM_MAX_TOPOLOGY_PORTS   4096              /* links of one node: a switch that has all hosts as ports */
#define FM_MAX_TOPOLOGY_BYTES   (8u << 20)        /* of its description: the largest one with the longest names, as it is written */
#define FM_MAX_PORT_NAME        32                /* with the final NUL */
#define FM_MAX_LINK_LATENCY_US  60000000          /* with as many links as there are nodes, a path's sum is far from overflowing */
#define FM_MAX_LINK_BYTES_PER_S 10000000000000ull /* 80 Tbit/s; times a million it still fits into 64 bits */
#define FM_MAX_PATHS            64                /* of one question for alternatives */
#define FM_MAX_PATH_STEPS       100000000ull      /* nodes and links looked at for one question: about a second */
#define FM_MAX_DNS_VALUES          16            /* of one name and type that are looked at; a container has one */
#define FM_MAX_DNS_RECORDS         512           /* of one answer of a name server; with more it is not looked at */
#define FM_MAX_DNS_UNDO_BYTES      2048          /* of the line that undoes a change of a record; the longest names fit */

#endif
