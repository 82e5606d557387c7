/*
 * What the runtime executes on a node that has an agent: it hands the call over, waits, and prints the answer.
 *
 * Each call of the runtime is a process of its own, so what counts is that it starts fast and depends on nothing: no
 * allocation, no threads, no JSON. What it cannot hand over it leaves to the daemonless plugin beside it; where there is
 * none, each command has its own way to fail (COMMANDS). A call that was handed over is never given to the daemonless
 * plugin as well: two engines would be at work on one pod.
 *
 * A DEL that fails blocks its pod's deletion, so it is kept in a spool, which the agent empties when it is back. For
 * the same reason nothing that DEL prints says "not found": containerd takes that for a success.
 *
 * The shim also makes the node's patch panel, a network namespace with a name. The agent cannot: a mount that it makes
 * is its container's own. A call is served with or without a panel.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h> /* renameat */
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

/* Milliseconds since the start of the process, as in ratchet/cni/budget.py. */
#ifndef CONNECT_MS
#define CONNECT_MS 5000
#endif
#ifndef ADD_MS
#define ADD_MS 200000
#endif
#ifndef DEL_MS
#define DEL_MS 90000
#endif
#ifndef CHECK_MS
#define CHECK_MS 30000
#endif
#ifndef GC_MS
#define GC_MS 90000
#endif
#ifndef STATUS_MS
#define STATUS_MS 10000
#endif
#ifndef VERSION_MS
#define VERSION_MS 2000
#endif
/* Milliseconds that a call may spend on the patch panel: for the agent's answer, and in all. */
#ifndef PANEL_ANSWER_MS
#define PANEL_ANSWER_MS 2000
#endif
#ifndef PANEL_MS
#define PANEL_MS 5000
#endif
#ifndef SPOOL_FILES_MAX
#define SPOOL_FILES_MAX 4096
#endif

#define SPOOL_FILE_MAX 262144 /* bytes */
#define RETRY_MS 5
#define NS_PER_MS 1000000
#define DAEMONLESS "ratchet-daemonless"
#define VOLATILE_SPOOL "spool"
#define CONTAINER_ID_MAX 200 /* bytes: it becomes a part of file names, which end at 255 */
#define IFNAME_MAX 15        /* bytes: IFNAMSIZ, less the terminating zero */
#define SHOWN_MAX 256        /* bytes of a foreign text that a message shows */
#define TEXT_MAX 16384       /* bytes: four foreign texts and their words, all of it escaped */

#define SPELT(macro) SPELT_AS_IT_STANDS(macro)
#define SPELT_AS_IT_STANDS(text) #text

#define LATEST "1.1.0"
#define VERSIONS                                                                                                       \
    "{\"cniVersion\": \"" LATEST "\", \"supportedVersions\": "                                                         \
    "[\"0.1.0\", \"0.2.0\", \"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]}\n"
#define HOW_TO_LOOK "kubectl -n ratchet get pods -o wide; on the node: ss -xl | grep ratchet"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

/* SPEC.md, section 5, "Error" */
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, UNDECODABLE = 6, TRY_AGAIN = 11, UNAVAILABLE = 50 };

/* Static ones begin empty, and end in a zero byte as long as there is room. */
struct text {
    char bytes[TEXT_MAX];
    size_t length;
};

struct command {
    const char *name;
    int64_t answer_ms;
    void (*without_agent)(void);
    bool needs_panel;
};

static const char *const VARIABLES[] = FRAME_VARIABLES;

/* One byte more than may come on stdin, so as to see that more has come. */
static unsigned char
    request[FRAME_HEADER_BYTES + FRAME_VARIABLES_COUNT * (4 + FRAME_VARIABLE_MAX) + FRAME_STDIN_MAX + 1];
static size_t request_length;
static size_t stdin_begins;

static unsigned char answer[FRAME_ANSWER_MAX];
static size_t answer_length;
static int answer_status;

static const struct command *command;
static int64_t began;      /* nanoseconds since boot, and so is whatever else is a time here */
static struct text reason; /* why the agent did not serve the call, and what went wrong after that */
static struct sigaction sigpipe_before;

/* Texts */

static void add_bytes(struct text *text, const char *bytes, size_t length)
{
    size_t room = sizeof text->bytes - text->length;
    size_t taken = length < room ? length : room;
    memcpy(text->bytes + text->length, bytes, taken);
    text->length += taken;
}

static void add(struct text *text, const char *piece)
{
    add_bytes(text, piece, strlen(piece));
}

static void add_foreign(struct text *text, const char *piece)
{
    size_t length = strnlen(piece, SHOWN_MAX + 1);
    add_bytes(text, piece, length > SHOWN_MAX ? SHOWN_MAX : length);
    if (length > SHOWN_MAX)
        add(text, "...");
}

static void add_number(struct text *text, uint64_t number)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    add_bytes(text, digits + first, sizeof digits - first);
}

static void add_hex(struct text *text, uint64_t number, int digits)
{
    while (digits-- > 0)
        add_bytes(text, &"0123456789abcdef"[(number >> (4 * digits)) & 15], 1);
}

/* As JSON has it within quotes. What is not ASCII need not be UTF-8: U+FFFD says that something was there. */
static void add_escaped(struct text *text, const struct text *plain)
{
    for (size_t at = 0; at < plain->length; at++) {
        unsigned char byte = (unsigned char)plain->bytes[at];
        if (byte > 0x7e) {
            add(text, "\\ufffd");
        } else if (byte < 0x20) {
            add(text, "\\u00");
            add_hex(text, byte, 2);
        } else {
            if (byte == '"' || byte == '\\')
                add(text, "\\");
            add_bytes(text, &plain->bytes[at], 1);
        }
    }
}

/* Time */

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return (int64_t)time.tv_sec * 1000 * NS_PER_MS + time.tv_nsec;
}

static int64_t earlier(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

/* When the agent must have answered. */
static int64_t end_of_call(void)
{
    return began + command->answer_ms * NS_PER_MS;
}

static bool is_ready(int descriptor, short events, int64_t until)
{
    for (;;) {
        int64_t left_ms = (until - now() + NS_PER_MS - 1) / NS_PER_MS;
        struct pollfd waited = {.fd = descriptor, .events = events};
        int ready = left_ms > 0 ? poll(&waited, 1, (int)earlier(left_ms, INT_MAX)) : 0;
        if (ready >= 0)
            return ready > 0;
        if (errno != EINTR)
            return false;
    }
}

/* What is printed */

/* Write all of it, in however many pieces the descriptor takes it; false, with errno, where it does not. */
static bool write_all(int descriptor, const void *bytes, size_t length)
{
    const char *rest = bytes;
    while (length > 0) {
        ssize_t written = write(descriptor, rest, length);
        if (written >= 0) {
            rest += written;
            length -= (size_t)written;
        } else if (errno == EAGAIN) {
            is_ready(descriptor, POLLOUT, INT64_MAX);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static _Noreturn void fail(int code, const struct text *message, const char *details)
{
    static struct text json;
    add(&json, "{\"cniVersion\": \"" LATEST "\", \"code\": ");
    add_number(&json, (uint64_t)code);
    add(&json, ", \"msg\": \"");
    add_escaped(&json, message);
    add(&json, "\", \"details\": \"");
    add(&json, details);
    add(&json, "\"}\n");
    write_all(STDOUT_FILENO, json.bytes, json.length);
    _exit(1);
}

static _Noreturn void fail_to_read(int code, const char *object, const char *cause)
{
    static struct text message;
    add(&message, "cannot read ");
    add(&message, object);
    add(&message, ": ");
    add(&message, cause);
    fail(code, &message, "");
}

/* One line on stderr, which runtimes keep, where stdout has none to say it with. */
static void tell(const struct text *message, const char *outcome)
{
    static struct text line;
    line.length = 0;
    add(&line, "ratchet: ");
    add_escaped(&line, message);
    add(&line, outcome);
    add(&line, "\n");
    write_all(STDERR_FILENO, line.bytes, line.length);
}

/* Where things are */

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : otherwise;
}

static const char *socket_path(void)
{
    return setting("RATCHET_AGENT_SOCKET", FRAME_SOCKET);
}

static const char *spool_path(void)
{
    return setting("RATCHET_AGENT_SPOOL", FRAME_SPOOL);
}

/* Empty: the node has no panel, and the shim makes none. */
static const char *panel_path(void)
{
    const char *value = getenv("RATCHET_PANEL");
    return value != NULL ? value : FRAME_PANEL_PATH;
}

/* The length of a path without the slashes at its end: with one, a link would be followed. */
static size_t length_of_path(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    return length;
}

static bool make_folder(char *path, mode_t mode)
{
    for (size_t at = 1;; at++) {
        char here = path[at];
        if (here != '/' && here != '\0')
            continue;
        path[at] = '\0';
        bool there = mkdir(path, mode) == 0 || errno == EEXIST;
        path[at] = here;
        if (!there || here == '\0')
            return there;
    }
}

/* The spool: what DEL leaves for an agent that does not answer */

static const char *folder; /* the spool that is tried */
static int disk_fault;     /* the errno with which its disk rejected the DEL */

static bool cannot_keep(const char *cause)
{
    add(&reason, "; cannot keep the DEL in ");
    add_foreign(&reason, folder);
    add(&reason, ": ");
    add(&reason, cause);
    return false;
}

static bool cannot_write(void)
{
    disk_fault = errno;
    return cannot_keep(strerror(disk_fault));
}

/* The rules of ratchet/cni/arguments.py. The value is not shown: it could be what DEL must not say. */
static void require_container_id(const char *id)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    if (id == NULL || id[0] == '\0')
        fail_to_read(INVALID_ENVIRONMENT, "CNI_CONTAINERID", "it is missing");
    if (strlen(id) > CONTAINER_ID_MAX)
        fail_to_read(INVALID_ENVIRONMENT, "CNI_CONTAINERID", "it is longer than " SPELT(CONTAINER_ID_MAX) " characters");
    if (strchr("_.-", id[0]) != NULL || id[strspn(id, letters)] != '\0')
        fail_to_read(INVALID_ENVIRONMENT, "CNI_CONTAINERID",
                     "it may hold letters, digits, '_', '.' and '-', a letter or digit first");
}

static void require_ifname(const char *name)
{
    if (name == NULL || name[0] == '\0')
        fail_to_read(INVALID_ENVIRONMENT, "CNI_IFNAME", "it is missing");
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        fail_to_read(INVALID_ENVIRONMENT, "CNI_IFNAME", "it must be the name of an interface");
    for (const char *at = name; *at != '\0'; at++)
        if (strchr("/:\x7f", *at) != NULL || (unsigned char)*at <= ' ')
            fail_to_read(INVALID_ENVIRONMENT, "CNI_IFNAME",
                         "it must not hold '/', ':', white space or what cannot be printed");
    if (strlen(name) > IFNAME_MAX)
        fail_to_read(INVALID_ENVIRONMENT, "CNI_IFNAME", "it is longer than " SPELT(IFNAME_MAX) " bytes");
}

/* FNV-1a, 64 bits: it tells apart the networks of one attachment, and needs no more than that. */
static uint64_t hash_of_stdin(void)
{
    uint64_t hash = 0xcbf29ce484222325U;
    for (size_t at = stdin_begins; at < request_length; at++)
        hash = (hash ^ request[at]) * 0x100000001b3U;
    return hash;
}

/* No container id holds a `+`, so no two attachments share a file; the same DEL again has the same one. */
static void name_file(struct text *name, const char *container_id, const char *ifname)
{
    add(name, container_id);
    add(name, "+");
    add(name, ifname);
    add(name, "+");
    add_hex(name, hash_of_stdin(), 16);
}

static void name_partial(struct text *name)
{
    add(name, ".");
    add_hex(name, (uint64_t)began, 16);
    add(name, ".");
    add_number(name, (uint64_t)getpid());
}

/* The spool is made where it is missing, and refused where it is not ours alone to write. */
static bool open_spool(int *spool)
{
    char path[PATH_MAX];
    size_t length = length_of_path(folder);
    if (length >= sizeof path)
        return cannot_keep(strerror(ENAMETOOLONG));
    memcpy(path, folder, length);
    path[length] = '\0';
    if (!make_folder(path, 0700))
        return cannot_write();

    struct stat found;
    *spool = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*spool < 0 || fstat(*spool, &found) != 0)
        return cannot_keep(strerror(errno));
    if (found.st_uid != geteuid())
        return cannot_keep("it belongs to somebody else");
    if (found.st_mode & (S_IWGRP | S_IWOTH))
        return cannot_keep("others may write there");
    return true;
}

/* How many files there are, partial ones too; -1 with errno. By the system call: readdir(3) would allocate. */
static int count_files(int spool)
{
    struct {
        uint64_t inode;
        int64_t next;
        uint16_t length;
        uint8_t type;
    } entry;
    static char entries[16384];
    int files = 0;
    for (;;) {
        long got = syscall(SYS_getdents64, spool, entries, sizeof entries);
        if (got <= 0)
            return got == 0 ? files : -1;
        for (long at = 0; at < got; at += entry.length) {
            memcpy(&entry, entries + at, sizeof entry);
            if (entry.type != DT_DIR)
                files++;
        }
    }
}

static bool has_room(int spool, const char *name)
{
    struct stat same;
    if (fstatat(spool, name, &same, AT_SYMLINK_NOFOLLOW) == 0)
        return true;
    int files = count_files(spool);
    if (files < 0)
        return cannot_keep(strerror(errno));
    if (files >= SPOOL_FILES_MAX)
        return cannot_keep("it holds " SPELT(SPOOL_FILES_MAX) " files already");
    return true;
}

/* Whole or not at all, and there after a crash of the machine. */
static bool put_request(int spool, const char *partial, const char *name)
{
    int file = openat(spool, partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0)
        return cannot_write();
    if (write_all(file, request, request_length) && fsync(file) == 0 && renameat(spool, partial, spool, name) == 0) {
        close(file);
        return fsync(spool) == 0 || cannot_write();
    }
    cannot_write();
    unlinkat(spool, partial, 0);
    close(file);
    return false;
}

static bool keep_in(const char *path, const char *partial, const char *name)
{
    int spool = -1;
    folder = path;
    if (request_length > SPOOL_FILE_MAX)
        return cannot_keep("the call has more than " SPELT(SPOOL_FILE_MAX) " bytes");
    return open_spool(&spool) && has_room(spool, name) && put_request(spool, partial, name);
}

/* The spool in memory, beside the agent's socket: it outlives the agent, though not the node. NULL if there is none. */
static const char *volatile_spool_path(void)
{
    static char path[PATH_MAX];
    const char *slash = strrchr(socket_path(), '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash + 1 - socket_path());
    if (length == 0 || length + sizeof VOLATILE_SPOOL > sizeof path)
        return NULL;
    memcpy(path, socket_path(), length);
    memcpy(path + length, VOLATILE_SPOOL, sizeof VOLATILE_SPOOL);
    return path;
}

/* A disk that is full or read-only must not keep pods from being deleted, which may be what frees it. */
static bool keep_request(const char *container_id, const char *ifname)
{
    static struct text name, partial;
    name_file(&name, container_id, ifname);
    name_partial(&partial);
    if (keep_in(spool_path(), partial.bytes, name.bytes))
        return true;
    const char *other = volatile_spool_path();
    bool rejected = disk_fault == ENOSPC || disk_fault == EDQUOT || disk_fault == EROFS;
    return rejected && other != NULL && keep_in(other, partial.bytes, name.bytes);
}

/* What each command comes to when the agent did not serve it */

static void try_again(void)
{
    fail(TRY_AGAIN, &reason, HOW_TO_LOOK);
}

static void be_unavailable(void)
{
    fail(UNAVAILABLE, &reason, HOW_TO_LOOK);
}

static void keep_for_later(void)
{
    const char *container_id = getenv("CNI_CONTAINERID");
    const char *ifname = getenv("CNI_IFNAME");
    require_container_id(container_id);
    require_ifname(ifname);
    if (!keep_request(container_id, ifname))
        try_again();
    tell(&reason, "; the DEL is kept until it is back");
    _exit(0);
}

static void say_versions(void)
{
    _exit(write_all(STDOUT_FILENO, VERSIONS, sizeof VERSIONS - 1) ? 0 : 1);
}

static const struct command COMMANDS[] = {
    {"ADD", ADD_MS, try_again, true},
    {"DEL", DEL_MS, keep_for_later, true},
    {"CHECK", CHECK_MS, try_again, false},
    {"GC", GC_MS, try_again, false},
    {"STATUS", STATUS_MS, be_unavailable, true},
    {"VERSION", VERSION_MS, say_versions, false},
};

/* The call */

static void put_number(unsigned char *into, size_t bytes, uint64_t number)
{
    while (bytes-- > 0) {
        into[bytes] = (unsigned char)number;
        number >>= 8;
    }
}

static uint64_t get_number(const unsigned char *from, size_t bytes)
{
    uint64_t number = 0;
    for (size_t at = 0; at < bytes; at++)
        number = number << 8 | from[at];
    return number;
}

static void read_command(void)
{
    const char *name = getenv("CNI_COMMAND");
    if (name == NULL || name[0] == '\0')
        fail_to_read(INVALID_ENVIRONMENT, "the environment", "CNI_COMMAND is missing");
    for (size_t at = 0; at < sizeof COMMANDS / sizeof COMMANDS[0]; at++)
        if (strcmp(name, COMMANDS[at].name) == 0)
            command = &COMMANDS[at];
    if (command == NULL)
        fail_to_read(INVALID_ENVIRONMENT, "CNI_COMMAND", "it is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
}

static bool put_variable(const char *name)
{
    const char *value = getenv(name);
    if (value == NULL)
        return false;
    size_t name_length = strlen(name), value_length = strlen(value), length = name_length + 1 + value_length;
    if (length > FRAME_VARIABLE_MAX)
        fail_to_read(INVALID_ENVIRONMENT, name, "it is longer than " SPELT(FRAME_VARIABLE_MAX) " bytes");
    unsigned char *place = request + request_length;
    put_number(place, 4, length);
    memcpy(place + 4, name, name_length);
    place[4 + name_length] = '=';
    memcpy(place + 4 + name_length + 1, value, value_length);
    request_length += 4 + length;
    return true;
}

static void put_stdin(void)
{
    stdin_begins = request_length;
    if (isatty(STDIN_FILENO))
        return;
    for (;;) {
        size_t room = stdin_begins + FRAME_STDIN_MAX + 1 - request_length;
        ssize_t got = read(STDIN_FILENO, request + request_length, room);
        if (got == 0)
            return;
        if (got > 0)
            request_length += (size_t)got;
        else if (errno == EAGAIN)
            is_ready(STDIN_FILENO, POLLIN, INT64_MAX);
        else if (errno != EINTR)
            fail_to_read(IO_FAILURE, "the network configuration", strerror(errno));
        if (request_length - stdin_begins > FRAME_STDIN_MAX)
            fail_to_read(UNDECODABLE, "the network configuration", "it is longer than " SPELT(FRAME_STDIN_MAX) " bytes");
    }
}

static void put_header(unsigned char *into, unsigned kind, unsigned count, size_t length)
{
    memcpy(into + FRAME_AT_MAGIC, FRAME_MAGIC, sizeof FRAME_MAGIC - 1);
    put_number(into + FRAME_AT_VERSION, 1, FRAME_VERSION);
    put_number(into + FRAME_AT_KIND, 1, kind);
    put_number(into + FRAME_AT_COUNT, 2, count);
    put_number(into + FRAME_AT_BEGAN, 8, (uint64_t)began);
    put_number(into + FRAME_AT_LENGTH, 4, length);
}

static void make_request(void)
{
    unsigned variables = 0;
    request_length = FRAME_HEADER_BYTES;
    for (size_t at = 0; at < FRAME_VARIABLES_COUNT; at++)
        variables += put_variable(VARIABLES[at]);
    put_stdin();
    put_header(request, FRAME_REQUEST, variables, request_length - FRAME_HEADER_BYTES);
}

/* The agent */

static bool cannot(const char *what, const char *cause)
{
    add(&reason, "cannot ");
    add(&reason, what);
    add(&reason, " the node agent at ");
    add_foreign(&reason, socket_path());
    add(&reason, ": ");
    add(&reason, cause);
    return false;
}

static bool no_answer(const char *cause)
{
    return cannot("get an answer from", cause);
}

/* 0 or an errno. EAGAIN is a queue that is full (connect(2), AF_UNIX): a place in it comes free soon, or never. */
static int connect_patiently(int agent, const struct sockaddr_un *address, int64_t until)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * NS_PER_MS};
    while (connect(agent, (const struct sockaddr *)address, sizeof *address) != 0) {
        if (errno == EAGAIN && now() < until)
            nanosleep(&pause, NULL);
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* 0 or an errno. */
static int connect_to_agent(int *agent, int64_t until)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(socket_path());
    if (length >= sizeof address.sun_path)
        return ENAMETOOLONG;
    memcpy(address.sun_path, socket_path(), length);
    *agent = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return *agent < 0 ? errno : connect_patiently(*agent, &address, until);
}

static const char *cause_of(int fault)
{
    return fault == EAGAIN ? "too many calls wait for it already" : strerror(fault);
}

static bool reach_agent(int *agent)
{
    int fault = connect_to_agent(agent, earlier(began + (int64_t)CONNECT_MS * NS_PER_MS, end_of_call()));
    return fault == 0 || cannot("reach", cause_of(fault));
}

/* A fault is not told: an agent that refused the request early has answered all the same, and else reading says why. */
static void send_request(int agent)
{
    size_t sent = 0;
    while (sent < request_length) {
        ssize_t taken = send(agent, request + sent, request_length - sent, MSG_NOSIGNAL);
        if (taken >= 0)
            sent += (size_t)taken;
        else if (errno == EAGAIN && is_ready(agent, POLLOUT, end_of_call()))
            continue;
        else if (errno != EINTR)
            return;
    }
}

static bool late(void)
{
    static struct text cause;
    add(&cause, "it did not come within ");
    add_number(&cause, (uint64_t)command->answer_ms / 1000);
    add(&cause, ".");
    add_number(&cause, (uint64_t)command->answer_ms % 1000 / 100);
    add(&cause, " s");
    return no_answer(cause.bytes);
}

static bool receive(int agent, unsigned char *into, size_t length)
{
    while (length > 0) {
        ssize_t got = recv(agent, into, length, 0);
        if (got > 0) {
            into += got;
            length -= (size_t)got;
        } else if (got == 0 || errno == ECONNRESET) {
            return no_answer("it went away before it had answered");
        } else if (errno == EAGAIN) {
            if (!is_ready(agent, POLLIN, end_of_call()))
                return late();
        } else if (errno != EINTR) {
            return no_answer(strerror(errno));
        }
    }
    return true;
}

static int status_of(const unsigned char *header)
{
    return (int)get_number(header + FRAME_AT_COUNT, 2);
}

/* Why it is not the header of an answer; NULL if it is. */
static const char *fault_of_answer(const unsigned char *header)
{
    if (memcmp(header + FRAME_AT_MAGIC, FRAME_MAGIC, sizeof FRAME_MAGIC - 1) != 0)
        return "what came is no frame";
    if (header[FRAME_AT_VERSION] != FRAME_VERSION)
        return "it speaks another version than this executable: install both from one release";
    if (header[FRAME_AT_KIND] != FRAME_ANSWER || status_of(header) > FRAME_STATUS_MAX ||
        get_number(header + FRAME_AT_BEGAN, 8))
        return "what came is no answer";
    if (get_number(header + FRAME_AT_LENGTH, 4) > sizeof answer)
        return "it is longer than " SPELT(FRAME_ANSWER_MAX) " bytes";
    return NULL;
}

static bool receive_answer(int agent)
{
    unsigned char header[FRAME_HEADER_BYTES];
    if (!receive(agent, header, sizeof header))
        return false;
    const char *fault = fault_of_answer(header);
    if (fault != NULL)
        return no_answer(fault);
    answer_status = status_of(header);
    answer_length = (size_t)get_number(header + FRAME_AT_LENGTH, 4);
    return receive(agent, answer, answer_length);
}

static _Noreturn void pass_on(void)
{
    if (write_all(STDOUT_FILENO, answer, answer_length))
        _exit(answer_status);
    add(&reason, "cannot write the answer: ");
    add(&reason, strerror(errno));
    tell(&reason, "");
    _exit(1);
}

/* The patch panel: a namespace that is mounted at a path, as by ip-netns(8) (ratchet/datapath/panel/namespace.py) */

#define NSFS 0x6e736673U /* NSFS_MAGIC in linux/magic.h, which musl-gcc does not find */
#define MARK_BYTES (sizeof FRAME_PANEL_MARK - 1)

enum { RTM_NEWLINK = 16, NLM_F_REQUEST = 1, NLM_F_ACK = 4, IFLA_IFALIAS = 20, LOOPBACK = 1 };

static struct text panel_fault; /* why there is no panel */

static bool no_panel(const char *cause)
{
    add(&panel_fault, "cannot make patch panel ");
    add_foreign(&panel_fault, panel_path());
    add(&panel_fault, ": ");
    add(&panel_fault, cause);
    return false;
}

/* Whether it is Ratchet's is for the agent to see. */
static bool is_namespace(const char *path)
{
    struct statfs found;
    return statfs(path, &found) == 0 && (uint64_t)found.f_type == NSFS;
}

/* The folder of a path; false if it is too long. */
static bool parent_of(const char *path, char parent[PATH_MAX])
{
    size_t length = length_of_path(path);
    while (length > 0 && path[length - 1] != '/')
        length--;
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length >= PATH_MAX)
        return false;
    memcpy(parent, length > 0 ? path : ".", length > 0 ? length : 1);
    parent[length > 0 ? length : 1] = '\0';
    return true;
}

/* Exclude other shims and the daemonless plugin, which locks the same folder: the state directory. */
static bool lock_panel(int *lock, int64_t until)
{
    char path[PATH_MAX];
    const struct timespec pause = {.tv_nsec = RETRY_MS * NS_PER_MS};
    if (!parent_of(spool_path(), path))
        return no_panel(strerror(ENAMETOOLONG));
    *lock = make_folder(path, 0700) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool is_locked = *lock >= 0;
    while (is_locked && flock(*lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            is_locked = false;
        else if (now() > until)
            return no_panel("another process keeps the lock of the state directory");
        else
            nanosleep(&pause, NULL);
    }
    if (is_locked)
        return true;
    static struct text cause;
    add(&cause, "cannot lock ");
    add_foreign(&cause, path);
    add(&cause, ": ");
    add(&cause, strerror(errno));
    return no_panel(cause.bytes);
}

/* Whether nothing has the name, or only the empty file of a process that was killed. */
static bool is_name_free(const char *path, const char *parent)
{
    struct stat found, around;
    if (lstat(path, &found) != 0)
        return errno == ENOENT || no_panel(strerror(errno));
    if (S_ISREG(found.st_mode) && found.st_size == 0 && stat(parent, &around) == 0 && found.st_dev == around.st_dev)
        return true;
    return no_panel("it exists and is not a network namespace");
}

static bool cannot_ask(const char *cause)
{
    static struct text why;
    add(&why, "cannot ask the node agent at ");
    add_foreign(&why, socket_path());
    add(&why, " for the panel that it has open: ");
    add(&why, cause);
    return no_panel(why.bytes);
}

/* As recv(2), with the descriptor that comes along. `lost`: one came, and could not be received. */
static ssize_t receive_descriptor(int agent, unsigned char *into, size_t length, int *descriptor, bool *lost)
{
    union {
        struct cmsghdr header;
        unsigned char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = into, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(agent, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return got;
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    if (first != NULL && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS &&
        first->cmsg_len >= CMSG_LEN(sizeof(int)))
        memcpy(descriptor, CMSG_DATA(first), sizeof(int));
    *lost |= (message.msg_flags & MSG_CTRUNC) != 0;
    return got;
}

/* The agent's answer: the panel that it has open, or -1. False if it may have one. */
static bool receive_panel(int agent, int *panel, int64_t until)
{
    unsigned char header[FRAME_HEADER_BYTES];
    bool lost = false;
    for (size_t length = 0; length < sizeof header;) {
        ssize_t got = receive_descriptor(agent, header + length, sizeof header - length, panel, &lost);
        if (got > 0)
            length += (size_t)got;
        else if (got == 0 || errno == ECONNRESET)
            return true;
        else if (errno == EAGAIN && !is_ready(agent, POLLIN, until))
            return cannot_ask("it did not answer within " SPELT(PANEL_ANSWER_MS) " ms");
        else if (errno != EAGAIN && errno != EINTR)
            return cannot_ask(strerror(errno));
    }
    const char *fault = lost ? "its descriptor could not be received" : fault_of_answer(header);
    return fault == NULL || cannot_ask(fault);
}

/* Ask the agent for the panel that it has open; -1 if it has none. False if it may have one: a second panel would split
 * the node's links. An agent that closes has ended, or does not know the request and has no panel. */
static bool ask_for_panel(int *panel, int64_t until)
{
    unsigned char frame[FRAME_HEADER_BYTES];
    int agent = -1;
    int fault = connect_to_agent(&agent, until);
    bool is_known = fault == ENOENT || fault == ECONNREFUSED;
    if (fault == 0) {
        put_header(frame, FRAME_PANEL, 0, 0);
        send(agent, frame, sizeof frame, MSG_NOSIGNAL); /* it fits; reading says why it was not taken */
        is_known = receive_panel(agent, panel, until);
    } else if (!is_known) {
        cannot_ask(cause_of(fault));
    }
    if (agent >= 0)
        close(agent);
    return is_known;
}

/* The rest is done by a child, which never leaves the new namespace. It writes why it failed. */

static _Noreturn void fail_in_child(int result, const char *what)
{
    static struct text cause;
    int fault = errno;
    add(&cause, "cannot ");
    add(&cause, what);
    add(&cause, ": ");
    add(&cause, strerror(fault));
    write_all(result, cause.bytes, cause.length);
    _exit(1);
}

static bool put_sysctl(const char *path, const char *value, bool may_be_missing)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return may_be_missing && errno == ENOENT;
    return write_all(file, value, strlen(value)) && close(file) == 0;
}

/* Disabled before the namespace has its name: panel ends would send multicast listener reports into pods. */
static bool disable_ipv6_and_forwarding(void)
{
    return put_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1", true) &&
           put_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1", true) &&
           put_sysctl("/proc/sys/net/ipv4/ip_forward", "0", false);
}

/* The alias of `lo` is the mark of ownership (rtnetlink(7)). */
static bool mark_panel(void)
{
    struct {
        uint32_t length; /* struct nlmsghdr */
        uint16_t type, flags;
        uint32_t sequence, port;
        uint8_t family, padding; /* struct ifinfomsg */
        uint16_t device;
        int32_t index;
        uint32_t device_flags, change;
        uint16_t attribute_length, attribute_type; /* struct rtattr */
        char alias[(MARK_BYTES + 3) / 4 * 4];
    } message = {.length = sizeof message,
                 .type = RTM_NEWLINK,
                 .flags = NLM_F_REQUEST | NLM_F_ACK,
                 .index = LOOPBACK,
                 .attribute_length = 4 + MARK_BYTES,
                 .attribute_type = IFLA_IFALIAS};
    struct {
        uint32_t length; /* struct nlmsghdr */
        uint16_t type, flags;
        uint32_t sequence, port;
        int32_t error; /* struct nlmsgerr */
        unsigned char rest[256];
    } reply = {.error = -EPROTO};
    memcpy(message.alias, FRAME_PANEL_MARK, MARK_BYTES);
    int kernel = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (kernel < 0 || send(kernel, &message, sizeof message, 0) < 0 || recv(kernel, &reply, sizeof reply, 0) < 0)
        return false;
    close(kernel);
    errno = -reply.error;
    return reply.error == 0;
}

/* Mount the namespace `panel` over a file, or a new one if `panel` is -1. */
static _Noreturn void mount_panel(int panel, int file, int result)
{
    static struct text name;
    if (panel < 0 && unshare(CLONE_NEWNET) != 0)
        fail_in_child(result, "create a network namespace");
    if (panel < 0 && !disable_ipv6_and_forwarding())
        fail_in_child(result, "disable IPv6 and forwarding");
    if (panel < 0 && !mark_panel())
        fail_in_child(result, "set the alias of lo");
    if (panel >= 0 && setns(panel, CLONE_NEWNET) != 0)
        fail_in_child(result, "enter the panel that the agent has open");
    add(&name, "/proc/self/fd/");
    add_number(&name, (uint64_t)file);
    if (mount("/proc/self/ns/net", name.bytes, "none", MS_BIND, NULL) != 0)
        fail_in_child(result, "mount it");
    _exit(0);
}

/* Wait until the child ends, or kill it: a kernel that is busy with other namespaces must not keep the call. */
static bool wait_for_child(pid_t child, int result, int64_t until)
{
    static struct text cause;
    char bytes[512];
    for (;;) {
        ssize_t got = is_ready(result, POLLIN, until) ? read(result, bytes, sizeof bytes) : -1;
        if (got > 0)
            add_bytes(&cause, bytes, (size_t)got);
        else if (got == 0)
            break;
        else if (errno != EINTR || now() > until) {
            kill(child, SIGKILL);
            add(&cause, "the kernel did not make it in time");
            break;
        }
    }
    int status = 0;
    pid_t ended;
    const struct timespec pause = {.tv_nsec = RETRY_MS * NS_PER_MS};
    int64_t patience = now() + (int64_t)1000 * NS_PER_MS;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0 && now() < patience)
        nanosleep(&pause, NULL);
    if (ended == child && status != 0 && cause.length == 0)
        add(&cause, "the process that makes it was killed");
    return cause.length == 0 || no_panel(cause.bytes);
}

static bool make_panel(int panel, const char *path, int64_t until)
{
    int result[2] = {-1, -1};
    int file = open(path, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0444);
    if (file < 0)
        return no_panel(strerror(errno));
    pid_t child = pipe2(result, O_CLOEXEC) == 0 ? fork() : -1;
    if (child == 0)
        mount_panel(panel, file, result[1]);
    bool is_made = child > 0 || no_panel(strerror(errno));
    if (result[1] >= 0)
        close(result[1]);
    if (is_made)
        is_made = wait_for_child(child, result[0], until);
    if (result[0] >= 0)
        close(result[0]);
    close(file);
    if (!is_made) /* under the lock, so it is the file from above; as a mount point it is busy */
        unlink(path);
    return is_made;
}

static bool restore_panel(const char *path, int64_t until)
{
    char parent[PATH_MAX];
    int panel = -1;
    if (!parent_of(path, parent))
        return no_panel(strerror(ENAMETOOLONG));
    if (!is_name_free(path, parent))
        return false;
    bool is_made = ask_for_panel(&panel, earlier(until, now() + (int64_t)PANEL_ANSWER_MS * NS_PER_MS)) &&
                   (make_folder(parent, 0755) || no_panel(strerror(errno))) && make_panel(panel, path, until);
    if (panel >= 0)
        close(panel);
    return is_made;
}

/* Make sure that the panel has its name. A fault is reported on stderr, and the call goes on. */
static void ensure_panel(void)
{
    const char *path = panel_path();
    if (path[0] == '\0' || is_namespace(path))
        return;
    int64_t until = earlier(now() + (int64_t)PANEL_MS * NS_PER_MS, end_of_call());
    int lock = -1;
    bool is_there = lock_panel(&lock, until) && (is_namespace(path) || restore_panel(path, until));
    if (!is_there)
        tell(&panel_fault, "");
    if (lock >= 0)
        close(lock);
}

/* The daemonless plugin */

/* Put `request`'s stdin where the runtime's was, which has been read. */
static bool replay_stdin(void)
{
    int replay = memfd_create("stdin", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (replay < 0) /* before Linux 6.3 */
        replay = memfd_create("stdin", MFD_CLOEXEC);
    return replay >= 0 && write_all(replay, request + stdin_begins, request_length - stdin_begins) &&
           lseek(replay, 0, SEEK_SET) == 0 && dup2(replay, STDIN_FILENO) == STDIN_FILENO;
}

static bool is_executable(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0;
}

/* Become the plugin that lies beside this executable. Returns where there is none, or it does not start. */
static void become_daemonless(void)
{
    char path[PATH_MAX + sizeof DAEMONLESS];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    if (length <= 0)
        return;
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return;
    memcpy(slash + 1, DAEMONLESS, sizeof DAEMONLESS);
    if (!is_executable(path))
        return;
    if (replay_stdin()) {
        char *const arguments[] = {path, NULL};
        sigaction(SIGPIPE, &sigpipe_before, NULL);
        execv(path, arguments);
    }
    int fault = errno;
    signal(SIGPIPE, SIG_IGN);
    add(&reason, "; cannot run ");
    add_foreign(&reason, path);
    add(&reason, ": ");
    add(&reason, strerror(fault));
}

/* A socket that took the place of a closed stdout would be sent the answer. */
static void open_what_is_closed(void)
{
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0)
            open("/dev/null", O_RDWR);
}

static void ignore_sigpipe(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, &sigpipe_before);
}

int main(void)
{
    began = now();
    open_what_is_closed();
    ignore_sigpipe();
    read_command();
    make_request();
    if (command->needs_panel)
        ensure_panel();
    int agent = -1;
    if (!reach_agent(&agent)) {
        become_daemonless();
        command->without_agent();
    }
    send_request(agent);
    if (!receive_answer(agent))
        command->without_agent();
    pass_on();
}
