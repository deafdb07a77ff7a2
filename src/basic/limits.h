/* SPDX-License-Identifier: MIT */
/* limits.h - every limit on what an outsider can influence, in one place, with its reason. */
#ifndef FM_BASIC_LIMITS_H
#define FM_BASIC_LIMITS_H

#define FM_MAX_HOSTS               4096
#define FM_MAX_CONTAINERS_PER_HOST 4096
#define FM_MAX_MIGRATIONS_ACTIVE   64         /* a manager's worker threads */
#define FM_MAX_RPC_MESSAGE_BYTES   (4u << 20) /* gRPC's own default */
#define FM_MAX_RPC_SNAPSHOT_BYTES                                                                                                          \
	(48u << 20) /* the answer of GetSnapshot alone: 1000 hosts and 20000 containers of which everything is known are a third of it */
#define FM_MAX_CONFIG_BYTES        (1u << 20) /* an OCI config.json */
#define FM_MAX_PLANS_ACTIVE        4          /* carried out at once, a thread each */
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
#define FM_MAX_MEMORY_TREES        64            /* tmpfs mounts of one container whose content travels */
#define FM_MAX_VOLUME_BYTES        (16ull << 40) /* of content in one pass over one of them; a full disk comes first */
#define FM_MAX_PUSH_STREAMS        16            /* of one migration: a thread, a connection and a store each, at both ends */
#define FM_MAX_THROTTLE_PERCENT    99            /* of a container's processor time: it may be slowed down, not stopped */
#define FM_MAX_PEERS               16            /* other agents whose way one agent measures */
#define FM_MAX_IMAGES              256           /* that a host says it has */
#define FM_MAX_USAGE_SERIES        65536         /* hosts and containers whose history a manager keeps; 12 KiB each */
#define FM_MAX_SNAPSHOT_CONTAINERS 1048576       /* of a snapshot, decision/snapshot.h: a simulated cluster is larger than a real one */
#define FM_MAX_FORECASTS           4096          /* series of hosts and containers that predictors follow, some 100 KiB each */
#define FM_MAX_SNAPSHOT_LINKS      1048576
#define FM_MAX_SNAPSHOT_BYTES      (512u << 20)

#define FM_MAX_CONTAINERD_NAMESPACES 8 /* that are looked at: a connection and a list of containers each */

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

/* name service, network/dns.h */
#define FM_MAX_DNS_VALUES     16   /* of one name and type that are looked at; a container has one */
#define FM_MAX_DNS_RECORDS    512  /* of one answer of a name server; with more it is not looked at */
#define FM_MAX_DNS_UNDO_BYTES 2048 /* of the line that undoes a change of a record; the longest names fit */

/* the network's description and the intents, network/description.h */
#define FM_MAX_DESCRIPTION_BYTES (FM_MAX_TOPOLOGY_BYTES + (2u << 20))
#define FM_MAX_DESCRIPTION_LIST  1024     /* entries of each of its lists, and switches that are changed by flows */
#define FM_MAX_INTENTS           1024     /* services that want something of the network */
#define FM_MAX_INTENT_LIST       16       /* clients, ports, webhooks of one of them */
#define FM_MAX_GAP_MS            86400000 /* that an intent can allow */
#define FM_MAX_DRAIN_MS          600000   /* that a load balancer's sessions are waited for */
#define FM_MAX_FLOW_PRIORITY     65535    /* OpenFlow's */
#define FM_MAX_FLOW_TABLE        254      /* likewise */

/* connection tracking and what stays for old connections, network/conntrack.h, stub.h */
#define FM_MAX_CONNTRACK           4096       /* connection tracking entries of one container that travel: in the freeze, some 10 us each */
#define FM_MAX_CONNTRACK_TIMEOUT_S 604800     /* of one entry; the kernel's own for an established connection is 5 days */
#define FM_MAX_CONNTRACK_ADDRESSES 16         /* of one container */
#define FM_MAX_STUBS               256        /* redirections that a host keeps for the last flows of containers that left */
#define FM_MAX_STUB_BYTES          (1u << 20) /* of one stub's record */

/* HTTP: one request to a controller, a load balancer or a webhook, and its answer */
#define FM_MAX_HTTP_URL_BYTES             2048u
#define FM_MAX_HTTP_SOCKET_PATH           107u /* of a Unix socket's address */
#define FM_MAX_HTTP_HEADERS               16u
#define FM_MAX_HTTP_HEADER_BYTES          4096u
#define FM_MAX_HTTP_BODY_BYTES            (1u << 20)
#define FM_MAX_HTTP_RESPONSE_HEADER_BYTES (64u << 10)
#define FM_MAX_HTTP_RESPONSE_BYTES        (8u << 20) /* all flows of a switch, as text */

/* a recorded series, decision/trace.h */
#define FM_MAX_TRACE_POINTS 1000000u     /* two years of minutes; some minutes of work */
#define FM_MAX_TRACE_BYTES  (128u << 20) /* of its file */

/* what is exposed over HTTP, src/web/ */
#define FM_MAX_WEB_CONNECTIONS    16u         /* a monitoring system has one or two */
#define FM_MAX_WEB_REQUEST_BYTES  8192u       /* of its line and headers; nothing that is served reads a body */
#define FM_MAX_WEB_RESPONSE_BYTES (64u << 20) /* 4096 hosts and 10000 containers, with names of the usual length, are half of it */
#define FM_MAX_WEB_RESPONSES      4u          /* different ones on their way at the same time: slow readers hold no more memory than that */
#define FM_MAX_WEB_CONTAINERS     10000u      /* that have series of their own */
#define FM_MAX_WEB_PEERS          64u         /* of one host, likewise */
#define FM_MAX_LABEL_VALUE        255         /* bytes */

/* documents that people write, basic/document.h: what it reads when its caller asks for no other limits */
#define FM_MAX_DOCUMENT_BYTES (1u << 20)
#define FM_MAX_DOCUMENT_DEPTH 32u    /* lists and mappings in each other */
#define FM_MAX_DOCUMENT_NODES 65536u /* values, each some hundred bytes of memory */

/* policies, decision/policy.h: what an operator writes, and what is evaluated for every request */
#define FM_MAX_EXPR_BYTES         8192u /* of one CONDITIONS */
#define FM_MAX_EXPR_NODES         2048u /* of its tree */
#define FM_MAX_EXPR_DEPTH         64u   /* parentheses, nots and signs in each other: evaluation recurses */
#define FM_MAX_POLICIES           256u
#define FM_MAX_POLICY_FILES       256u  /* of a folder */
#define FM_MAX_POLICY_DESCRIPTION 1024u /* all of them travel in one answer */
#define FM_MAX_POLICY_LIST        32u   /* actions, windows of one of them */
#define FM_MAX_POLICY_DURATION_S  604800u

/* scenarios, decision/simulator.h; hosts: FM_MAX_HOSTS */
#define FM_MAX_SIMULATION_GROUPS     256u
#define FM_MAX_SIMULATION_CONTAINERS 262144u /* each some hundred bytes */
#define FM_MAX_SIMULATION_STEPS      200000u /* two years of 5 minutes */
#define FM_MAX_SIMULATION_EVENTS     4096u

#define FM_MAX_HAPROXY_ANSWER_BYTES (1u << 20) /* the state of some thousand servers of one backend */

#endif
