/* The load generator of the benchmarks: one epoll loop that reads SSE streams and posts HTTP requests, pipelining off.
 *
 *     load PORT MODE STREAMS REQUESTS POSTERS RATE FRAMES WARMUP TIMEOUT
 *
 * STREAMS and REQUESTS are files of complete HTTP requests, each after its length (32 bits, this machine's order); "-"
 * is none. Every stream is opened first. Then, by MODE:
 *
 *     hold        print "ready", keep the streams until the standard input ends
 *     throughput  POSTERS keep-alive connections send the requests as fast as they are answered
 *     paced       RATE requests a second, on whichever poster is free, whether or not earlier ones are answered
 *     pingpong    one request; the next when it is answered and each stream has read FRAMES frames of it
 *
 * A frame is known by its marker, "sent_ns":"<19 digits>": the nanosecond (CLOCK_MONOTONIC) at which its event was sent,
 * or, paced, was due, so that a server that stalls cannot hide it; of a request's events the first is stamped. The first
 * WARMUP requests are not counted. Answers one JSON object; times are in microseconds. TIMEOUT (seconds) ends all, with
 * "timed_out": true.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MARKER "\"sent_ns\":\""
#define MARKER_SIZE (sizeof MARKER - 1)
#define OPENED "subscription.open"
#define ACTIVE "notifications/events/active" /* the same, of an `events/stream` */
#define DIGITS 19
#define TAIL 64
#define OPENING 128 /* streams that are being opened at the same time */

typedef struct { char *at; uint32_t size; char *stamp; } message;
typedef struct { message *at; int count; } messages;
typedef struct { int64_t *at; size_t count, room; } samples;

typedef struct {
    int fd;
    bool stream, open, busy, chunked, in_body;
    message *out;
    size_t sent;
    char tail[TAIL];   /* stream: what may be the first part of a marker */
    size_t tail_size;
    char head[4096];   /* poster: the response's head */
    size_t head_size;
    int64_t left, began;
} conn;

static enum { HOLD, THROUGHPUT, PACED, PINGPONG } mode;
static messages streams, requests;
static conn *conns;
static int port, posters, warmup, epoll, opened, next_request, answered, refused, due;
static int64_t frames_each, interval, started, first_due, last_answer, last_frame, frames, counted, bytes, round_began, round_frames;
static samples frame_latency, answer_latency, rounds;
static char buffer[TAIL + 256 * 1024 + 1];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static void add(samples *to, int64_t value) {
    if (to->count == to->room) {
        to->room = to->room ? 2 * to->room : 4096;
        to->at = realloc(to->at, to->room * sizeof *to->at);
        if (!to->at) fail("memory");
    }
    to->at[to->count++] = value;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, samples *of) {
    printf(", \"%s\": ", name);
    if (!of->count) { printf("null"); return; }
    qsort(of->at, of->count, sizeof *of->at, ascending);
    printf("{\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", of->at[of->count / 2] / 1e3,
           of->at[(of->count * 99) / 100] / 1e3, of->at[of->count - 1] / 1e3);
}

static messages load(const char *path) {
    messages found = {0};
    if (!strcmp(path, "-")) return found;
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    uint32_t size;
    while (fread(&size, sizeof size, 1, file) == 1) {
        found.at = realloc(found.at, (found.count + 1) * sizeof *found.at);
        message *one = &found.at[found.count++];
        one->size = size;
        one->at = malloc(size + 1);
        if (!one->at || fread(one->at, 1, size, file) != size) fail("a request cannot be read");
        one->stamp = memmem(one->at, size, MARKER, MARKER_SIZE);
        if (one->stamp) one->stamp += MARKER_SIZE;
    }
    fclose(file);
    return found;
}

static void watch(conn *c, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &event)) fail("epoll_ctl");
}

static void push(conn *c) {
    bool waited = c->sent > 0;
    while (c->out && c->sent < c->out->size) {
        ssize_t n = write(c->fd, c->out->at + c->sent, c->out->size - c->sent);
        if (n < 0 && errno == EAGAIN) { watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT); return; }
        if (n < 0) fail("write");
        c->sent += n;
    }
    c->out = NULL;
    if (waited) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void begin(conn *c, message *what) { c->out = what; c->sent = 0; push(c); }

static void dial(conn *c, bool stream, message *request) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->stream = stream;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    if (request) begin(c, request);
}

/* Send the next request on `c`, stamped with the moment that it counts from. */
static void post(conn *c) {
    message *request = &requests.at[next_request];
    int64_t at = mode == PACED ? first_due + next_request * interval : now();
    if (next_request == warmup) { started = at; bytes = 0; }
    next_request++;
    if (request->stamp) {
        char digits[DIGITS + 1];
        snprintf(digits, sizeof digits, "%019lld", (long long)at);
        memcpy(request->stamp, digits, DIGITS);
    }
    c->busy = true;
    c->in_body = c->chunked = false;
    c->head_size = c->tail_size = 0;
    c->began = round_began = at;
    round_frames = 0;
    begin(c, request);
}

static void post_more(void) {
    int upto = mode == PACED ? due : requests.count;
    for (int i = 0; i < posters && next_request < upto; i++)
        if (!conns[streams.count + i].busy) post(&conns[streams.count + i]);
}

static void maybe_next_round(void) {
    if (next_request && (answered < next_request || round_frames < frames_each * streams.count)) return;
    if (next_request > warmup) add(&rounds, (streams.count ? last_frame : last_answer) - round_began);
    if (next_request < requests.count) post(&conns[streams.count]);
}

static void read_stream(conn *c) {
    memcpy(buffer, c->tail, c->tail_size);
    ssize_t n = read(c->fd, buffer + c->tail_size, sizeof buffer - TAIL - 1);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { errno = 0; fail("a stream ended"); }
    char *at = buffer, *end = buffer + c->tail_size + n;
    bytes += n;
    *end = 0;
    if (!c->open) {
        if (!memmem(at, end - at, OPENED, sizeof OPENED - 1) && !memmem(at, end - at, ACTIVE, sizeof ACTIVE - 1)) {
            if (memmem(at, end - at, "HTTP/1.1 4", 10) || memmem(at, end - at, "HTTP/1.1 5", 10)) { errno = 0; fail(at); }
        } else {
            c->open = true;
            opened++;
        }
    }
    int64_t read_at = now();
    char *keep = end - at > (ptrdiff_t)MARKER_SIZE ? end - MARKER_SIZE + 1 : at;
    for (char *found; (found = memmem(at, end - at, MARKER, MARKER_SIZE)); at = found + MARKER_SIZE + DIGITS) {
        if (end - found < (ptrdiff_t)(MARKER_SIZE + DIGITS)) { keep = found; break; }
        found[MARKER_SIZE + DIGITS] = 0;
        int64_t sent = strtoll(found + MARKER_SIZE, NULL, 10);
        frames++;
        if (started) { counted++; last_frame = read_at; }
        if (started && sent >= started) add(&frame_latency, read_at - sent);
        round_frames++;
        if (keep < found + MARKER_SIZE + DIGITS) keep = found + MARKER_SIZE + DIGITS;
    }
    if (keep > end) keep = end;
    c->tail_size = end - keep;
    memcpy(c->tail, keep, c->tail_size);
    if (mode == PINGPONG && c->open) last_frame = read_at;
}

static void answer(conn *c) {
    c->busy = false;
    answered++;
    last_answer = now();
    if (answered > warmup) add(&answer_latency, last_answer - c->began);
}

static void read_answer(conn *c) {
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { errno = 0; fail("a connection was closed"); }
    char *body = buffer, *end = buffer + n;
    if (!c->in_body) {
        size_t take = (size_t)n < sizeof c->head - 1 - c->head_size ? (size_t)n : sizeof c->head - 1 - c->head_size;
        memcpy(c->head + c->head_size, buffer, take);
        c->head[c->head_size + take] = 0;
        char *blank = strstr(c->head, "\r\n\r\n");
        if (!blank) { c->head_size += take; return; }
        if (c->head[9] != '2') { if (!refused++) fprintf(stderr, "load: %.300s\n", c->head); }
        *blank = 0;
        char *length = strcasestr(c->head, "\r\ncontent-length:");
        c->chunked = !length;
        c->left = length ? atoll(length + 17) : 0;
        c->in_body = true;
        body = buffer + (blank + 4 - c->head - c->head_size);
    }
    if (!c->chunked) {
        c->left -= end - body;
        if (c->left <= 0) answer(c);
    } else {
        /* The last chunk is an empty one: what ends in it ends the answer. */
        for (; body < end; body++) {
            if (c->tail_size == 5) { memmove(c->tail, c->tail + 1, 4); c->tail_size = 4; }
            c->tail[c->tail_size++] = *body;
        }
        if (c->tail_size == 5 && !memcmp(c->tail, "0\r\n\r\n", 5)) answer(c);
    }
}

static void report(bool timed_out, double opening) {
    int64_t last = last_frame > last_answer ? last_frame : last_answer;
    printf("{\"streams\": %d, \"open_s\": %.3f, \"requests\": %d, \"refused\": %d, \"seconds\": %.6f, \"frames\": %lld, "
           "\"bytes\": %lld, \"timed_out\": %s", opened, opening, answered > warmup ? answered - warmup : 0, refused,
           (last - started) / 1e9, (long long)counted, (long long)bytes, timed_out ? "true" : "false");
    print_samples("answer_us", &answer_latency);
    print_samples("frame_us", &frame_latency);
    print_samples("round_us", &rounds);
    printf("}\n");
    exit(0);
}

int main(int argc, char **argv) {
    if (argc != 10) { errno = EINVAL; fail("arguments"); }
    port = atoi(argv[1]);
    mode = *argv[2] == 'h' ? HOLD : *argv[2] == 't' ? THROUGHPUT : argv[2][1] == 'a' ? PACED : PINGPONG;
    streams = load(argv[3]);
    requests = load(argv[4]);
    posters = atoi(argv[5]);
    interval = atof(argv[6]) > 0 ? 1e9 / atof(argv[6]) : 0;
    frames_each = atoll(argv[7]);
    warmup = atoi(argv[8]);
    double timeout = atof(argv[9]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    epoll = epoll_create1(0);
    conns = calloc(streams.count + posters, sizeof *conns);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    static conn timer_mark, stdin_mark;
    timer_mark.fd = timer;
    struct epoll_event events[256];
    int64_t began = now(), deadline = began + (int64_t)(timeout * 1e9), opening = 0;
    int dialled = 0;
    bool running = false;
    for (;;) {
        while (dialled < streams.count && dialled - opened < OPENING) {
            dial(&conns[dialled], true, &streams.at[dialled]);
            dialled++;
        }
        if (!running && opened == streams.count) {
            running = true;
            opening = now() - began;
            if (mode == HOLD) {
                watch(&stdin_mark, EPOLL_CTL_ADD, EPOLLIN);
                printf("ready\n");
                fflush(stdout);
            } else {
                for (int i = 0; i < posters; i++) dial(&conns[streams.count + i], false, NULL);
                first_due = now() + 10000000;
                if (mode == PACED) {
                    struct itimerspec every = {.it_interval.tv_nsec = interval};
                    every.it_value.tv_sec = first_due / 1000000000;
                    every.it_value.tv_nsec = first_due % 1000000000;
                    timerfd_settime(timer, TFD_TIMER_ABSTIME, &every, NULL);
                    watch(&timer_mark, EPOLL_CTL_ADD, EPOLLIN);
                } else if (mode == PINGPONG) {
                    maybe_next_round();
                } else {
                    post_more();
                }
            }
        }
        int n = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (c == &stdin_mark) {
                if (read(0, buffer, 16) <= 0) return 0;
            } else if (c == &timer_mark) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) == sizeof ticks) due += ticks;
                if (due > requests.count) due = requests.count;
                post_more();
            } else {
                if (events[i].events & EPOLLOUT) push(c);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                    if (c->stream) { read_stream(c); } else { read_answer(c); }
                }
            }
        }
        if (running && mode == PINGPONG) {
            int before = next_request;
            if (answered == next_request && round_frames >= frames_each * streams.count) {
                maybe_next_round();
                if (before == next_request && answered == requests.count) report(false, opening / 1e9);
            }
        } else if (running && mode != HOLD) {
            post_more();
            if (answered == requests.count && frames >= frames_each * streams.count * requests.count) report(false, opening / 1e9);
        }
        if (mode != HOLD && now() > deadline) report(true, opening / 1e9);
    }
}
