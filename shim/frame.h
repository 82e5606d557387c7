/* Between the shim and the agent. Printed by `python -m ratchet.agent.frame`: change it there. */
#ifndef RATCHET_FRAME_H
#define RATCHET_FRAME_H

#define FRAME_VERSION 1
#define FRAME_REQUEST 1
#define FRAME_ANSWER 2
#define FRAME_PANEL 3
#define FRAME_HEADER_BYTES 20
#define FRAME_AT_MAGIC 0
#define FRAME_AT_VERSION 4
#define FRAME_AT_KIND 5
#define FRAME_AT_COUNT 6
#define FRAME_AT_BEGAN 8
#define FRAME_AT_LENGTH 16
#define FRAME_VARIABLE_MAX 65536
#define FRAME_STDIN_MAX 1048576
#define FRAME_ANSWER_MAX 4194304
#define FRAME_STATUS_MAX 255
#define FRAME_MAGIC "RTCH"
#define FRAME_SOCKET "/run/ratchet/agent.sock"
#define FRAME_SPOOL "/var/lib/cni/ratchet/spool"
#define FRAME_PANEL_PATH "/run/netns/ratchet"
#define FRAME_PANEL_MARK "ratchet/panel"
#define FRAME_VARIABLES {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"}
#define FRAME_VARIABLES_COUNT 6

#endif
