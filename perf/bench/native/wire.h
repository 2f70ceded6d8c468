/* How requests are written and replies are read: HTTP/1.1, RESP, memcached's text protocol, WebSocket frames.

   A request is a template, in which every byte 0x01 stands for the next digit of the key's number: ten digits,
   and then from the first again. That gives plain keys, percent-encoded ones (%3\1) and values alike. */
#ifndef WIRE_H
#define WIRE_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { DIGITS = 10, FRAME_HEAD = 14 };

typedef struct {
    char *text;
    size_t length;
    uint32_t *places; /* of the digits */
    size_t place_count;
} Template;

/* A reply: whether it is a success, and how many bytes of payload it has. */
typedef struct {
    int success;
    size_t payload;
} Reply;

/* Reads the first reply of so many bytes: its length, 0 if it is not complete, -1 if it cannot be read. */
typedef long (*Reader)(const char *at, size_t have, Reply *reply);

static inline Template load_template(const char *path) {
    Template made = {0};
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    made.length = (size_t)ftell(file);
    rewind(file);
    made.text = malloc(made.length + 1);
    made.places = malloc((made.length + 1) * sizeof *made.places);
    if (fread(made.text, 1, made.length, file) != made.length) exit(2);
    fclose(file);
    for (uint32_t i = 0; i < made.length; i++)
        if (made.text[i] == 1) made.places[made.place_count++] = i;
    return made;
}

/* Write the request for a key; its length. */
static inline size_t write_plain(char *to, const Template *template, uint64_t number) {
    char digits[DIGITS];
    for (int i = DIGITS; i--; number /= 10) digits[i] = (char)('0' + number % 10);
    memcpy(to, template->text, template->length);
    for (size_t i = 0; i < template->place_count; i++) to[template->places[i]] = digits[i % DIGITS];
    return template->length;
}

/* The same as a client's text frame (RFC 6455, section 5.2), with a mask of its own as section 5.3 asks. */
static inline size_t write_frame(char *to, const Template *template, uint64_t number, uint32_t mask) {
    size_t size = template->length, head = 2;
    to[0] = (char)0x81;
    to[1] = (char)(0x80 | (size < 126 ? size : size < 65536 ? 126 : 127));
    int extended = size < 126 ? 0 : size < 65536 ? 2 : 8;
    for (int i = extended; i--;) to[head++] = (char)(size >> 8 * i);
    char *key = to + head;
    memcpy(key, &mask, 4);
    head += 4;
    write_plain(to + head, template, number);
    for (size_t i = 0; i < size; i++) to[head + i] ^= key[i & 3];
    return head + size;
}

static inline long read_http(const char *at, size_t have, Reply *reply) {
    const char *blank = memmem(at, have, "\r\n\r\n", 4);
    if (!blank) return 0;
    if (blank - at < 12 || memcmp(at, "HTTP/1.1 ", 9)) return -1;
    reply->success = at[9] == '2';
    for (const char *line = at; line < blank;) {
        line = (const char *)memchr(line, '\n', (size_t)(blank + 2 - line)) + 1;
        if (strncasecmp(line, "content-length:", 15)) continue;
        reply->payload = strtoul(line + 15, NULL, 10);
        size_t length = (size_t)(blank + 4 - at) + reply->payload;
        return length <= have ? (long)length : 0;
    }
    return -1;
}

/* A line, and after it a payload with an end of its own where the line announces one. */
static inline long read_line(const char *at, size_t have, const char **end) {
    *end = memmem(at, have, "\r\n", 2);
    return *end ? *end + 2 - at : 0;
}

static inline long read_resp(const char *at, size_t have, Reply *reply) {
    const char *end;
    long line = read_line(at, have, &end);
    if (!line) return 0;
    if (!memchr("+-:$", at[0], 4)) return -1;
    long announced = at[0] == '$' ? strtol(at + 1, NULL, 10) : -1;
    reply->success = at[0] != '-' && (at[0] != '$' || announced >= 0);
    reply->payload = announced > 0 ? (size_t)announced : 0;
    size_t length = (size_t)line + (announced >= 0 ? (size_t)announced + 2 : 0);
    return length <= have ? (long)length : 0;
}

static inline long read_memcached(const char *at, size_t have, Reply *reply) {
    const char *end;
    long line = read_line(at, have, &end);
    if (!line) return 0;
    reply->success = !strncmp(at, "STORED\r\n", 8);
    reply->payload = 0;
    if (line < 8 || memcmp(at, "VALUE ", 6)) return line;
    reply->success = 1;
    const char *size = end;
    while (size[-1] != ' ') size--;
    reply->payload = strtoul(size, NULL, 10);
    size_t length = (size_t)line + reply->payload + strlen("\r\nEND\r\n");
    return length <= have ? (long)length : 0;
}

/* A server's text frame with {"result":…} in it, and no null. */
static inline long read_frame(const char *at, size_t have, Reply *reply) {
    if (have < 2) return 0;
    if ((unsigned char)at[0] != 0x81 || at[1] & 0x80) return -1;
    size_t size = (size_t)at[1], head = 2;
    if (size > 125) {
        int extended = size == 126 ? 2 : 8;
        if (have < head + (size_t)extended) return 0;
        size = 0;
        while (extended--) size = size << 8 | (unsigned char)at[head++];
    }
    if (have < head + size) return 0;
    const char *said = "{\"result\":\"";
    reply->success = size > strlen(said) && !memcmp(at + head, said, strlen(said));
    reply->payload = size;
    return (long)(head + size);
}
#endif
