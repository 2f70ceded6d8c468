/* The load generator: the same client for every server and wire.

     drive [options] ADDRESS TEMPLATE

   ADDRESS is a port of 127.0.0.1 or the path of a unix socket, TEMPLATE a file with a request (see wire.h).

     -w WIRE       http, resp, memcached or websocket
     -c N          connections            -d N   requests under way on each (pipelining)
     -k N          keys                   -D X   which is asked for: hot, uniform, zipf, sequence
     -t SECONDS    how long               -u S   how long before that, without being counted
     -n N          so many requests, however long they take
     -r RATE       open loop: so many requests a second, whatever comes back
     -y            between them give the CPU away (else it is watched, which is more precise)
     -m TEMPLATE   another request, for   -p N   per cent of all, uniformly over the keys
     -l BYTES      a reply with a smaller payload is a short one
     -x            a connection for every request
     -s SEED       of the draws

   In the closed loop every connection sends its next request when the last has been answered; in the open
   loop request i is due at start + i / RATE, waits for a connection if all are busy, and its latency counts
   from when it was due: what a stalled server keeps from being sent is not left out.

   When it has warmed up, and everything is answered, it writes a line and waits for one, so that whoever runs
   it can read the server's clock; then it measures until everything is answered again, and writes what it
   counted as JSON. It ends when its standard input does. Exit code 1: not every reply was a success. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "draw.h"
#include "histogram.h"
#include "wire.h"

enum { INPUT_BYTES = 1 << 17, EVENTS = 512, PATIENCE_SECONDS = 20, CONNECT_SECONDS = 60, SOURCES = 64 };

typedef struct {
    int fd, awaited;
    size_t have;
    uint64_t due; /* of the requests under way, in ns */
    char *input;
} Connection;

typedef struct {
    uint64_t sent, replies, errors, shorts;
    double seconds;
    Histogram latency;
} Tally;

static const char *address, *wire = "http";
static int connection_count = 1, depth = 1, percent, reconnect, yield_cpu;
static double seconds = 1, warmup, rate;
static uint64_t most = UINT64_MAX;
static size_t least;
static Template first, second;
static Draw draw, mixed;
static Reader read_reply;
static Connection *connections;
static uint32_t *idle; /* a ring: who has been idle for longest is next */
static uint32_t idle_from, idle_count;
static char *output;
static int epoll;

static void fail(const char *what) {
    fprintf(stderr, "drive: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(2);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int connect_unix(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, address, sizeof to.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (void *)&to, sizeof to)) fail("cannot connect");
    return fd;
}

/* Those for one request come from many loopback addresses: each has 28,000 ports, which rest after use. */
static int connect_tcp(void) {
    static uint32_t turn;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK + (reconnect ? turn++ % SOURCES : 0))}};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    to.sin_port = htons((uint16_t)atoi(address));
    if (fd < 0) fail("cannot make a socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (void *)&from, sizeof from) || connect(fd, (void *)&to, sizeof to)) fail("cannot connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void upgrade(int fd) {
    static const char asked[] = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFzdGt2IGJlbmNobWFyaw==\r\n\r\n";
    char told[2048];
    size_t have = 0;
    if (send(fd, asked, strlen(asked), MSG_NOSIGNAL) < 0) fail("cannot upgrade");
    while (!memmem(told, have, "\r\n\r\n", 4)) {
        ssize_t got = have < sizeof told ? recv(fd, told + have, sizeof told - have, 0) : 0;
        if (got <= 0) fail("the server does not upgrade");
        have += (size_t)got;
    }
    if (strncmp(told, "HTTP/1.1 101", 12)) fail("the server refuses to upgrade");
}

static void open_connection(uint32_t number) {
    Connection *connection = &connections[number];
    connection->fd = address[0] == '/' ? connect_unix() : connect_tcp();
    if (!strcmp(wire, "websocket")) upgrade(connection->fd);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event)) fail("cannot watch a connection");
}

static void set_idle(uint32_t number) {
    idle[(idle_from + idle_count++) % (uint32_t)connection_count] = number;
}

static void send_requests(uint64_t due) {
    uint32_t number = idle[idle_from];
    idle_from = (idle_from + 1) % (uint32_t)connection_count;
    idle_count--;
    Connection *connection = &connections[number];
    if (connection->fd < 0) open_connection(number);
    size_t length = 0;
    for (int i = 0; i < depth; i++) {
        int other = percent && random_below(&mixed, 100) < (uint64_t)percent;
        const Template *template = other ? &second : &first;
        uint64_t key = draw_key(other ? &mixed : &draw);
        length += strcmp(wire, "websocket") ? write_plain(output + length, template, key)
                                            : write_frame(output + length, template, key, (uint32_t)random_bits(&mixed));
    }
    connection->due = due;
    connection->awaited = depth;
    for (size_t at = 0; at < length;) { /* blocks until the socket has taken it */
        ssize_t taken = send(connection->fd, output + at, length - at, MSG_NOSIGNAL);
        if (taken < 0) fail("cannot send");
        at += (size_t)taken;
    }
}

static void count_reply(Tally *tally, const Reply *reply, const char *at, size_t length) {
    tally->replies++;
    int is_short = reply->success && reply->payload < least;
    if (reply->success && !is_short) return;
    if (!tally->errors && !tally->shorts) fprintf(stderr, "drive: the first was: %.*s\n", length < 200 ? (int)length : 200, at);
    tally->errors += !reply->success;
    tally->shorts += is_short;
}

static void receive(uint32_t number, Tally *tally) {
    Connection *connection = &connections[number];
    ssize_t got = recv(connection->fd, connection->input + connection->have, INPUT_BYTES - connection->have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("the server closed a connection");
    connection->have += (size_t)got;
    char *at = connection->input;
    size_t left = connection->have;
    long length = 0;
    Reply reply;
    while (connection->awaited && (length = read_reply(at, left, &reply)) > 0) {
        count_reply(tally, &reply, at, (size_t)length);
        at += length;
        left -= (size_t)length;
        connection->awaited--;
    }
    errno = 0;
    if (length < 0 || left == INPUT_BYTES) fail("a reply cannot be read");
    if (!connection->awaited && left) fail("there is more than was asked for");
    memmove(connection->input, at, connection->have = left);
    if (connection->awaited) return;
    note(&tally->latency, now_ns() - connection->due);
    if (reconnect) {
        close(connection->fd);
        connection->fd = -1;
    }
    set_idle(number);
}

/* How long nothing but a reply can make something to do, in ns. */
static uint64_t until_next(uint64_t now, uint64_t next_due, int more) {
    if (!more || !idle_count) return 1000000000u;
    if (next_due <= now || !yield_cpu) return 0;
    return next_due - now;
}

static void run(double duration, uint64_t requests, Tally *tally) {
    uint64_t start = now_ns(), end = start + (uint64_t)(duration * 1e9);
    uint64_t total = rate > 0 ? (uint64_t)(rate * duration) : requests;
    for (;;) {
        uint64_t now = now_ns(), due = now;
        int more;
        while ((more = tally->sent < total)) {
            if (rate > 0) due = start + (uint64_t)((double)tally->sent * 1e9 / rate);
            else if (requests == UINT64_MAX && now >= end) more = 0;
            if (!more || !idle_count || due > now) break;
            send_requests(due);
            tally->sent += (uint64_t)depth;
            now = now_ns();
            if (rate <= 0) due = now;
        }
        if (!more && idle_count == (uint32_t)connection_count) break;
        if (requests == UINT64_MAX && now > end + PATIENCE_SECONDS * 1000000000ull) fail("the server does not keep up");
        uint64_t wait = until_next(now, due, more);
        struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
        struct epoll_event events[EVENTS];
        int ready = epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
        if (ready < 0 && errno != EINTR) fail("cannot wait");
        for (int i = 0; i < ready; i++) receive(events[i].data.u32, tally);
    }
    tally->seconds = (double)(now_ns() - start) / 1e9;
}

static void await_line(void) {
    int byte;
    while ((byte = getchar()) != '\n')
        if (byte == EOF) exit(0);
}

static void read_options(int count, char **words) {
    const char *other = NULL, *draws = "hot";
    uint64_t keys = 1, seed = 1;
    for (int option; (option = getopt(count, words, "w:c:d:k:D:t:u:n:r:ym:p:l:xs:")) != -1;) switch (option) {
        case 'w': wire = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'd': depth = atoi(optarg); break;
        case 'k': keys = strtoull(optarg, NULL, 10); break;
        case 'D': draws = optarg; break;
        case 't': seconds = atof(optarg); break;
        case 'u': warmup = atof(optarg); break;
        case 'n': most = strtoull(optarg, NULL, 10); break;
        case 'r': rate = atof(optarg); break;
        case 'y': yield_cpu = 1; break;
        case 'm': other = optarg; break;
        case 'p': percent = atoi(optarg); break;
        case 'l': least = strtoull(optarg, NULL, 10); break;
        case 'x': reconnect = 1; break;
        case 's': seed = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    static const char *const wires[] = {"http", "resp", "memcached", "websocket"};
    static const Reader readers[] = {read_http, read_resp, read_memcached, read_frame};
    for (int i = 0; i < 4; i++)
        if (!strcmp(wire, wires[i])) read_reply = readers[i];
    draw = draw_by(draws, keys, seed);
    mixed = draw_by("uniform", keys, ~seed);
    if (count - optind != 2 || !read_reply || draw.kind == UNKNOWN || !keys || connection_count < 1 || depth < 1)
        fail("the head of its source says how it is used");
    if (rate > 0 && depth > 1) fail("a rate goes with one request at a time");
    if (percent && !other) fail("-p goes with -m");
    address = words[optind];
    first = load_template(words[optind + 1]);
    if (other) second = load_template(other);
}

int main(int count, char **words) {
    read_options(count, words);
    size_t longest = first.length > second.length ? first.length : second.length;
    size_t inputs = (size_t)connection_count * INPUT_BYTES;
    output = malloc((longest + FRAME_HEAD) * (size_t)depth);
    connections = calloc((size_t)connection_count, sizeof *connections);
    idle = calloc((size_t)connection_count, sizeof *idle);
    /* Of this only what is used becomes memory. */
    char *input = mmap(NULL, inputs, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!output || !connections || !idle || input == MAP_FAILED) fail("there is no memory");
    epoll = epoll_create1(0);
    if (most == UINT64_MAX) alarm((unsigned)(warmup + seconds) + CONNECT_SECONDS + 2 * PATIENCE_SECONDS);
    for (int i = 0; i < connection_count; i++) {
        connections[i] = (Connection){.fd = -1, .input = input + (size_t)i * INPUT_BYTES};
        if (!reconnect) open_connection((uint32_t)i);
        set_idle((uint32_t)i);
    }
    static Tally warm, tally;
    if (warmup > 0) run(warmup, UINT64_MAX, &warm);
    puts("ready");
    fflush(stdout);
    await_line();
    run(seconds, most, &tally);
    const Histogram *latency = &tally.latency;
    printf("{\"replies\":%lu,\"errors\":%lu,\"shorts\":%lu,\"seconds\":%.6f,"
           "\"p50_us\":%.3f,\"p99_us\":%.3f,\"p999_us\":%.3f,\"max_us\":%.3f}\n",
           tally.replies, warm.errors + tally.errors, warm.shorts + tally.shorts, tally.seconds,
           (double)percentile(latency, 0.5) / 1e3, (double)percentile(latency, 0.99) / 1e3,
           (double)percentile(latency, 0.999) / 1e3, (double)latency->longest / 1e3);
    fflush(stdout);
    await_line();
    return warm.errors + warm.shorts + tally.errors + tally.shorts != 0;
}
