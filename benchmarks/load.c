/* The load generator of the benchmarks: one epoll loop that reads SSE streams and posts HTTP requests.
 *
 *     load PORT MODE STREAMS REQUESTS POSTERS RATE FRAMES WARMUP TIMEOUT ANSWERS MARKER PID
 *
 * STREAMS and REQUESTS are files of complete HTTP requests, each after its length (32 bits, this machine's order); "-"
 * is none. An entry of REQUESTS may be several requests for one connection, of which each gets an answer: ANSWERS of
 * them. Every stream is opened first. Then, by MODE:
 *
 *     hold        print "ready", keep the streams until the standard input ends
 *     throughput  POSTERS keep-alive connections send the requests as fast as they are answered
 *     paced       RATE requests a second, on whichever poster is free, whether or not earlier ones are answered; ends
 *                 when FRAMES frames of every request were read
 *     pingpong    one request; the next when it is answered and FRAMES frames of it were read, all streams together
 *
 * A frame is known by its MARKER. "-" is "sent_ns":"<19 digits>": the nanosecond (CLOCK_MONOTONIC) at which its event
 * was sent, or, paced, was due, so that a server that stalls cannot hide it; of a request's events the first is stamped.
 * Any other text is looked for as it is, and there are no times of single frames. The first WARMUP requests are not
 * counted; "server_s" is the processor time that the process PID has used since (0: not asked). Answers one JSON
 * object; times are in microseconds. TIMEOUT (seconds) ends all, with "timed_out": true.
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

#define STAMPED "\"sent_ns\":\""
#define DIGITS 19
#define TAIL 64
#define OPENING 128 /* streams that are being opened at the same time */

/* How a stream says that it is open: Clarion's side channel, `events/stream`, `subscriptions/listen`, nchan. */
static const char *const OPENINGS[] = {
    "subscription.open", "notifications/events/active", "notifications/subscriptions/acknowledged", "\n: hi\n",
};

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
    int answers; /* poster: how many are still to come */
} conn;

static enum { HOLD, THROUGHPUT, PACED, PINGPONG } mode;
static messages streams, requests;
static conn *conns;
static const char *marker = STAMPED;
static size_t marker_size, digits = DIGITS;
static int port, posters, warmup, answers_each, round_end, epoll, opened, next_request, answered, refused, due;
static int pid;
static double server_began;
static int64_t frames_each, interval, started, first_due, last_answer, last_frame;
static int64_t frames, counted, bytes, round_began, round_frames;
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

/* Seconds of processor time that the server has used, all of its threads together. */
static double server_seconds(void) {
    char path[64], line[1024];
    long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    if (!file) return 0;
    char *after = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system) != 2) return 0;
    return (double)(user + system) / sysconf(_SC_CLK_TCK);
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
        one->stamp = memmem(one->at, size, STAMPED, sizeof STAMPED - 1);
        if (one->stamp) one->stamp += sizeof STAMPED - 1;
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
    if (next_request == warmup) { started = at; bytes = 0; server_began = server_seconds(); }
    next_request++;
    if (request->stamp) {
        char stamp[DIGITS + 1];
        snprintf(stamp, sizeof stamp, "%019lld", (long long)at);
        memcpy(request->stamp, stamp, DIGITS);
    }
    c->busy = true;
    c->in_body = c->chunked = false;
    c->head_size = c->tail_size = 0;
    c->began = at;
    c->answers = answers_each;
    begin(c, request);
}

static void post_more(void) {
    int upto = mode == PACED ? due : mode == PINGPONG ? round_end : requests.count;
    for (int i = 0; i < posters && next_request < upto; i++)
        if (!conns[streams.count + i].busy) post(&conns[streams.count + i]);
}

static void next_round(void) {
    if (round_end > warmup) add(&rounds, (streams.count ? last_frame : last_answer) - round_began);
    if (round_end < requests.count) round_end++;
    round_frames = 0;
    round_began = now();
    post_more();
}

static bool says_open(const char *at, size_t size) {
    for (size_t i = 0; i < sizeof OPENINGS / sizeof *OPENINGS; i++)
        if (memmem(at, size, OPENINGS[i], strlen(OPENINGS[i]))) return true;
    return false;
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
        if (says_open(at, end - at)) {
            c->open = true;
            opened++;
        } else if (memmem(at, end - at, "HTTP/1.1 4", 10) || memmem(at, end - at, "HTTP/1.1 5", 10)) {
            errno = 0;
            fail(at);
        }
    }
    int64_t read_at = now();
    ptrdiff_t overlap = c->open ? (ptrdiff_t)marker_size - 1 : TAIL - 1, whole = marker_size + digits;
    char *keep = end - at > overlap ? end - overlap : at;
    for (char *found; (found = memmem(at, end - at, marker, marker_size)); at = found + whole) {
        if (end - found < whole) { keep = found; break; }
        frames++;
        round_frames++;
        if (started) { counted++; last_frame = read_at; }
        if (started && digits) {
            found[whole] = 0;
            int64_t sent = strtoll(found + marker_size, NULL, 10);
            if (sent >= started) add(&frame_latency, read_at - sent);
        }
        if (keep < found + whole) keep = found + whole;
    }
    if (keep > end) keep = end;
    c->tail_size = end - keep;
    memcpy(c->tail, keep, c->tail_size);
}

static void answer(conn *c) {
    c->busy = false;
    answered++;
    last_answer = now();
    if (answered > warmup) add(&answer_latency, last_answer - c->began);
}

/* Take what belongs to one answer from `at`; tells where the rest begins. */
static char *take_answer(conn *c, char *at, char *end) {
    char *body = at;
    if (!c->in_body) {
        size_t room = sizeof c->head - 1 - c->head_size, take = end - at < (ptrdiff_t)room ? (size_t)(end - at) : room;
        memcpy(c->head + c->head_size, at, take);
        c->head[c->head_size + take] = 0;
        char *blank = strstr(c->head, "\r\n\r\n");
        if (!blank) {
            c->head_size += take;
            if (c->head_size == sizeof c->head - 1) { errno = 0; fail("an answer's head is too long"); }
            return end;
        }
        if (c->head[9] != '2') { if (!refused++) fprintf(stderr, "load: %.300s\n", c->head); }
        *blank = 0;
        char *length = strcasestr(c->head, "\r\ncontent-length:");
        c->chunked = !length;
        c->left = length ? atoll(length + 17) : 0;
        c->in_body = true;
        body = at + (blank + 4 - c->head - c->head_size);
    }
    bool whole = false;
    if (!c->chunked) {
        int64_t take = end - body < c->left ? end - body : c->left;
        c->left -= take;
        body += take;
        whole = !c->left;
    }
    /* The last chunk is an empty one: what ends in it ends the answer. */
    while (c->chunked && !whole && body < end) {
        if (c->tail_size == 5) { memmove(c->tail, c->tail + 1, 4); c->tail_size = 4; }
        c->tail[c->tail_size++] = *body++;
        whole = c->tail_size == 5 && !memcmp(c->tail, "0\r\n\r\n", 5);
    }
    if (whole) {
        c->in_body = c->chunked = false;
        c->head_size = c->tail_size = 0;
        if (!--c->answers) answer(c);
    }
    return body;
}

static void read_answer(conn *c) {
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { errno = 0; fail("a connection was closed"); }
    for (char *at = buffer, *end = buffer + n; at < end;) {
        if (!c->answers) { errno = 0; fail("an answer that was not asked for"); }
        at = take_answer(c, at, end);
    }
}

static void report(bool timed_out, double opening) {
    int64_t last = last_frame > last_answer ? last_frame : last_answer;
    printf("{\"streams\": %d, \"open_s\": %.3f, \"requests\": %d, \"refused\": %d, \"seconds\": %.6f, \"frames\": %lld, "
           "\"bytes\": %lld, \"server_s\": %.3f, \"timed_out\": %s",
           opened, opening, answered > warmup ? answered - warmup : 0, refused,
           (last - started) / 1e9, (long long)counted, (long long)bytes, server_seconds() - server_began,
           timed_out ? "true" : "false");
    print_samples("answer_us", &answer_latency);
    print_samples("frame_us", &frame_latency);
    print_samples("round_us", &rounds);
    printf("}\n");
    exit(0);
}

int main(int argc, char **argv) {
    if (argc != 13) { errno = EINVAL; fail("arguments"); }
    port = atoi(argv[1]);
    mode = *argv[2] == 'h' ? HOLD : *argv[2] == 't' ? THROUGHPUT : argv[2][1] == 'a' ? PACED : PINGPONG;
    streams = load(argv[3]);
    requests = load(argv[4]);
    posters = atoi(argv[5]);
    interval = atof(argv[6]) > 0 ? 1e9 / atof(argv[6]) : 0;
    frames_each = atoll(argv[7]);
    warmup = atoi(argv[8]);
    double timeout = atof(argv[9]);
    answers_each = atoi(argv[10]);
    if (strcmp(argv[11], "-")) { marker = argv[11]; digits = 0; }
    marker_size = strlen(marker);
    pid = atoi(argv[12]);
    if (marker_size + digits > TAIL) { errno = EINVAL; fail("the marker"); }
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
                    next_round();
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
            if (answered < round_end) {
                post_more();
            } else if (round_frames >= frames_each) {
                next_round();
                if (answered == requests.count) report(false, opening / 1e9);
            }
        } else if (running && mode != HOLD) {
            post_more();
            if (answered == requests.count && frames >= frames_each * requests.count) report(false, opening / 1e9);
        }
        if (mode != HOLD && now() > deadline) report(true, opening / 1e9);
    }
}
