#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SCRIPT "if redis.call(\"GET\", KEYS[1]) == ARGV[1] then return redis.call(\"DEL\", KEYS[1]) else return 0 end"

static int server;

static double now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void ask(const char *expected, int count, ...) {
    char line[1024], answer[64];
    int size = snprintf(line, sizeof line, "*%d\r\n", count);
    va_list words;
    va_start(words, count);
    while (count-- > 0) {
        const char *word = va_arg(words, const char *);
        size += snprintf(line + size, sizeof line - (size_t)size, "$%zu\r\n%s\r\n", strlen(word), word);
    }
    va_end(words);
    if (write(server, line, (size_t)size) != size) abort();
    ssize_t got = read(server, answer, sizeof answer);
    if (got != (ssize_t)strlen(expected) || memcmp(answer, expected, (size_t)got) != 0) abort();
}

int main(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", getenv("CYCLES_REDIS"));
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(server, (struct sockaddr *)&address, sizeof address) != 0) return 1;
    double end = now() + atof(getenv("CYCLES_SECONDS"));
    long count = 0;
    for (; now() < end; count++) {
        ask("+OK\r\n", 6, "SET", "raw", "mine", "NX", "PX", "30000");
        ask(":1\r\n", 5, "EVAL", SCRIPT, "1", "raw", "mine");
    }
    printf("%ld\n", count);
    return 0;
}
