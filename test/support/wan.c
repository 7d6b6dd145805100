// Two network namespaces and a line between them that is a test's to choose: delay, loss, rate, and cuts that nobody is
// told of, packet by packet. Needs neither netem nor a network card: each namespace has a tun device, and this program
// carries what comes out of one into the other. Both namespaces are gone when it and those who entered them have ended.
//   wan SEED      prints `ready PREFIX-A PREFIX-B` (arguments of nsenter, joined by commas), then reads lines:
//   line FROM DELAY_US LOSS_PPM BYTES_PER_S CUT      what the line from side FROM (0 or 1) does from now on
//   link SIDE UP                                     takes the device of a side down (0) or up (1)
//   count
// and answers each with `ok PASSED LOST PASSED LOST`: packets from side 0, from side 1. Ends with its standard input.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "wan"
#define MTU 1500
/* What is on its way in one direction; more than fits is lost, as in a router. */
#define MAX_PACKETS 4096
/* Read from one device before the other has its turn. */
#define MAX_BURST 64

struct packet {
  uint64_t due_us;
  size_t length;
  unsigned char data[MTU];
};

struct line {
  struct packet *packets;
  size_t first, count;
  uint64_t delay_us, loss_ppm, bytes_per_s, free_at_us;
  int is_cut;
  uint64_t passed, lost;
};

struct side {
  int tun, ns, socket;
  struct line out;
};

static struct side sides[2];
static uint64_t random_state;

static void die(const char *what) {
  fprintf(stderr, "wan: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void must(int result, const char *what) {
  if (result < 0) die(what);
}

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* xorshift64*: the same seed loses the same packets of the same traffic. */
static uint64_t next_random(void) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 2685821657736338717u;
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  must(fd, path);
  must((int)write(fd, text, strlen(text)), path);
  close(fd);
}

/* Who isn't root is root of a namespace of users first. */
static void become_root(void) {
  char map[64];
  unsigned user = geteuid(), group = getegid();
  must(unshare(CLONE_NEWUSER), "no namespace of users");
  write_file("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "0 %u 1", user);
  write_file("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "0 %u 1", group);
  write_file("/proc/self/gid_map", map);
}

static void set_flags(int fd, const char *device, int is_up) {
  struct ifreq request = {0};
  strcpy(request.ifr_name, device);
  must(ioctl(fd, SIOCGIFFLAGS, &request), "the state of a device");
  request.ifr_flags = (short)(is_up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  must(ioctl(fd, SIOCSIFFLAGS, &request), "a device up or down");
}

static void set_address(int fd, unsigned long command, const char *address) {
  struct ifreq request = {0};
  struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
  strcpy(request.ifr_name, DEVICE);
  in->sin_family = AF_INET;
  inet_pton(AF_INET, address, &in->sin_addr);
  must(ioctl(fd, command, &request), "the address of a device");
}

static void open_side(struct side *side, const char *address) {
  struct ifreq request = {0};
  must(unshare(CLONE_NEWNET), "no namespace of networks");
  must(side->ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "the namespace");
  must(side->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "a socket");
  must(side->tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/net/tun");
  strcpy(request.ifr_name, DEVICE);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  must(ioctl(side->tun, TUNSETIFF, &request), "a tun device");
  set_address(side->socket, SIOCSIFADDR, address);
  set_address(side->socket, SIOCSIFNETMASK, "255.255.255.0");
  set_flags(side->socket, DEVICE, 1);
  set_flags(side->socket, "lo", 1);
  side->out.packets = calloc(MAX_PACKETS, sizeof *side->out.packets);
  if (!side->out.packets) die("memory");
}

static void take_in(struct side *side) {
  struct line *line = &side->out;
  for (int i = 0; i < MAX_BURST; i += 1) {
    struct packet spare, *packet = &spare;
    int fits = line->count < MAX_PACKETS;
    if (fits) packet = &line->packets[(line->first + line->count) % MAX_PACKETS];
    ssize_t length = read(side->tun, packet->data, sizeof packet->data);
    if (length <= 0) return; /* nothing more, or the device is down */
    if (!fits || line->is_cut || next_random() % 1000000 < line->loss_ppm) {
      line->lost += 1;
      continue;
    }
    uint64_t sent_us = now_us();
    if (line->bytes_per_s > 0) {
      if (line->free_at_us > sent_us) sent_us = line->free_at_us;
      sent_us += (uint64_t)length * 1000000 / line->bytes_per_s;
      line->free_at_us = sent_us;
    }
    packet->due_us = sent_us + line->delay_us;
    packet->length = (size_t)length;
    line->count += 1;
  }
}

/* Returns when the next packet is due; 0 when none is on its way. */
static uint64_t let_out(struct line *line, struct side *to) {
  while (line->count > 0) {
    struct packet *packet = &line->packets[line->first];
    /* A line that was cut loses what was on it. */
    if (!line->is_cut && packet->due_us > now_us()) return packet->due_us;
    int is_passed = !line->is_cut && write(to->tun, packet->data, packet->length) >= 0;
    if (is_passed) line->passed += 1;
    else line->lost += 1;
    line->first = (line->first + 1) % MAX_PACKETS;
    line->count -= 1;
  }
  return 0;
}

static void obey(const char *command) {
  unsigned side;
  int flag;
  uint64_t delay_us, loss_ppm, bytes_per_s;
  const char *format = "line %u %" SCNu64 " %" SCNu64 " %" SCNu64 " %d";
  if (sscanf(command, format, &side, &delay_us, &loss_ppm, &bytes_per_s, &flag) == 5 && side < 2) {
    struct line *line = &sides[side].out;
    line->delay_us = delay_us;
    line->loss_ppm = loss_ppm;
    line->bytes_per_s = bytes_per_s;
    line->free_at_us = 0;
    line->is_cut = flag;
  } else if (sscanf(command, "link %u %d", &side, &flag) == 2 && side < 2) {
    set_flags(sides[side].socket, DEVICE, flag);
  } else if (strcmp(command, "count") != 0) {
    fprintf(stderr, "wan: %s?\n", command);
    exit(2);
  }
  for (int i = 0; i < 2; i += 1) {
    printf("%s%" PRIu64 " %" PRIu64, i == 0 ? "ok " : " ", sides[i].out.passed, sides[i].out.lost);
  }
  printf("\n");
}

/* Returns 0 at the end of the input. */
static int read_commands(void) {
  static char text[4096];
  static size_t used;
  ssize_t more = read(STDIN_FILENO, text + used, sizeof text - 1 - used);
  if (more <= 0) return 0;
  used += (size_t)more;
  text[used] = 0;
  for (char *end; (end = strchr(text, '\n'));) {
    *end = 0;
    obey(text);
    used -= (size_t)(end + 1 - text);
    memmove(text, end + 1, used + 1);
  }
  return 1;
}

int main(int argc, char **argv) {
  random_state = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
  random_state = random_state * 2 + 1; /* never 0 */
  setvbuf(stdout, NULL, _IOLBF, 0);
  int is_root = geteuid() == 0;
  if (!is_root) become_root();
  open_side(&sides[0], "192.0.2.1");
  open_side(&sides[1], "192.0.2.2");
  printf("ready");
  for (int i = 0; i < 2; i += 1) {
    printf(" ");
    if (!is_root) printf("--user=/proc/%d/ns/user,--preserve-credentials,", getpid());
    printf("--net=/proc/%d/fd/%d", getpid(), sides[i].ns);
  }
  printf("\n");

  struct pollfd polled[3] = {{STDIN_FILENO, POLLIN, 0}, {sides[0].tun, POLLIN, 0}, {sides[1].tun, POLLIN, 0}};
  for (;;) {
    uint64_t next = 0;
    for (int i = 0; i < 2; i += 1) {
      uint64_t due = let_out(&sides[i].out, &sides[1 - i]);
      if (due > 0 && (next == 0 || due < next)) next = due;
    }
    struct timespec wait = {0}, *timeout = NULL;
    if (next > 0) {
      uint64_t now = now_us(), left = next > now ? next - now : 0;
      wait.tv_sec = (time_t)(left / 1000000);
      wait.tv_nsec = (long)(left % 1000000) * 1000;
      timeout = &wait;
    }
    if (ppoll(polled, 3, timeout, NULL) < 0 && errno != EINTR) die("poll");
    if (polled[0].revents && !read_commands()) return 0;
    for (int i = 0; i < 2; i += 1) if (polled[i + 1].revents) take_in(&sides[i]);
  }
}
