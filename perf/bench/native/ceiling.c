/* What a server on this kernel cannot go below: one epoll loop that reads whatever has come, parses nothing but
   how many requests have ended, and sends so many copies of one reply.

     ceiling PORT PAYLOAD_BYTES */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, MOST = 64 };

static char input[1 << 16], *replies;
static size_t reply_length;

/* Head and body have the sizes of fastkv's, for a value of so many bytes. */
static void build_replies(size_t value_bytes) {
    static const char before[] = "{\"status\":\"OK\",\"key\":\"k0000000001\",\"value\":\"";
    size_t body = strlen(before) + value_bytes + strlen("\"}");
    replies = malloc((body + 256) * MOST);
    char *at = replies + sprintf(replies,
        "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nCache-Control: no-store\r\n\r\n%s", body, before);
    memset(at, 'v', value_bytes);
    memcpy(at + value_bytes, "\"}", 2);
    reply_length = (size_t)(at + value_bytes + 2 - replies);
    for (size_t i = 1; i < MOST; i++) memcpy(replies + i * reply_length, replies, reply_length);
}

static void answer(int fd) {
    ssize_t got = recv(fd, input, sizeof input, MSG_DONTWAIT);
    if (got <= 0) {
        close(fd);
        return;
    }
    size_t ended = 0;
    const char *end = input + got;
    for (const char *at = input; (at = memmem(at, (size_t)(end - at), "\r\n\r\n", 4)); at += 4) ended++;
    if (ended > MOST) exit(1);
    if (send(fd, replies, ended * reply_length, MSG_NOSIGNAL) < 0) close(fd);
}

int main(int count, char **words) {
    if (count != 3) return 2;
    build_replies(strtoul(words[2], NULL, 10));
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    place.sin_port = htons((uint16_t)atoi(words[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&place, sizeof place) || listen(listener, 4096)) {
        perror("ceiling");
        return 1;
    }
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                answer(fd);
                continue;
            }
            if ((fd = accept(listener, NULL, NULL)) < 0) continue;
            event.data.fd = fd;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
