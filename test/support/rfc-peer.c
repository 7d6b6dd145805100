/*
 * A hub and an agent that know the protocol of the 2012 proposal alone, in C: structs as a compiler lays them out, and
 * nothing of this project's own code. What ours understands of it, another implementation does too.
 *
 *   rfc-peer frames                        writes one frame of each command to standard output
 *   rfc-peer fields                        reads frames from standard input, prints their fields a line each
 *   rfc-peer hub IMAGE VOLUME              prints "port N", replicates VOLUME into IMAGE, ends 0 at AGENT_SHUTDOWN
 *   rfc-peer agent PORT IMAGE VOLUME COUNT replicates IMAGE, makes COUNT random changes meanwhile, until standard input ends
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PROTECTED_WRITE = 2, REPORT_VM_VOLUMES, START_PROTECT, REMOTE_IO_REQ, REMOTE_IO_RES, AGENT_SHUTDOWN };
enum { SECTOR = 512, READ_SECTORS = 256, WINDOW = 4, MAX_PAYLOAD = 32 << 20 };

#pragma pack(push, 1)
struct protected_write { uint64_t volume_id; uint64_t offset_sectors; uint32_t size_sectors; int32_t ret_status; };
struct report_vm_volumes { int32_t num_volumes; };
struct volume_record { char name[256]; uint64_t volume_id; uint64_t size_bytes; };
struct start_protect { uint64_t volume_id; uint32_t name_length; };
struct remote_io_req { int32_t req_id; int32_t size_sectors; uint64_t volume_id; uint64_t offset_sectors; int32_t is_read; };
struct remote_io_res { int32_t req_id; int32_t io_status; uint64_t volume_id; };
struct frame {
  uint16_t magic1;
  uint16_t cmdid;
  uint32_t data_size_bytes;
  union {
    uint8_t raw[44];
    struct protected_write write;
    struct report_vm_volumes report;
    struct start_protect start;
    struct remote_io_req req;
    struct remote_io_res res;
  } params;
  uint32_t magic2;
};
#pragma pack(pop)
_Static_assert(sizeof(struct frame) == 56, "the fixed part of a frame has 56 bytes");
_Static_assert(sizeof(struct volume_record) == 272, "a volume's record has 272 bytes");

static void die(const char *what) {
  fprintf(stderr, "rfc-peer: %s: %s\n", what, errno ? strerror(errno) : "protocol");
  exit(1);
}

static int in_fd, out_fd;

static int read_all(void *to, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t got = read(in_fd, (char *)to + at, size - at);
    if (got < 0) die("read");
    if (got == 0) return at == 0 ? 0 : (errno = 0, die("the stream ends inside a frame"), 0);
    at += got;
  }
  return 1;
}

static void write_all(const void *from, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t put = write(out_fd, (const char *)from + at, size - at);
    if (put < 0) die("write");
    at += put;
  }
}

static void send_frame(struct frame *frame, int command, const void *data, uint32_t size) {
  frame->magic1 = 0x1122;
  frame->cmdid = command;
  frame->data_size_bytes = size;
  frame->magic2 = 0x3344;
  write_all(frame, sizeof *frame);
  write_all(data, size);
}

static uint8_t *payload;

/* Returns 0 at the end of the stream. */
static int take_frame(struct frame *frame) {
  if (!read_all(frame, sizeof *frame)) return 0;
  errno = 0;
  if (frame->magic1 != 0x1122 || frame->magic2 != 0x3344) die("a frame's magic is wrong");
  if (frame->data_size_bytes > MAX_PAYLOAD) die("a payload is too large");
  if (frame->data_size_bytes && !read_all(payload, frame->data_size_bytes)) die("a payload is missing");
  return 1;
}

static void frames(void) {
  static uint8_t data[1024];
  memset(data, 0x5a, sizeof data);
  struct frame f = {0};
  f.params.write = (struct protected_write){0x1122334455667788, 0x1020304050, 2, 0};
  send_frame(&f, PROTECTED_WRITE, data, 1024);
  f = (struct frame){0};
  f.params.write = (struct protected_write){1, UINT64_C(1) << 40, 2, -1};
  send_frame(&f, PROTECTED_WRITE, NULL, 0);
  f = (struct frame){0};
  f.params.report.num_volumes = 2;
  struct volume_record records[2] = {{"vda", 7, UINT64_C(1) << 40}, {"daten-\xc3\xa4", UINT64_MAX, 512}};
  send_frame(&f, REPORT_VM_VOLUMES, records, sizeof records);
  f = (struct frame){0};
  f.params.start = (struct start_protect){UINT64_MAX, 3};
  send_frame(&f, START_PROTECT, "vda", 3);
  f = (struct frame){0};
  f.params.req = (struct remote_io_req){0x01020304, 8, 7, 0x1020304050, 1};
  send_frame(&f, REMOTE_IO_REQ, NULL, 0);
  f = (struct frame){0};
  f.params.req = (struct remote_io_req){2, 2, 7, 3, 0};
  send_frame(&f, REMOTE_IO_REQ, data, 1024);
  f = (struct frame){0};
  f.params.res = (struct remote_io_res){0x01020304, 0, 7};
  send_frame(&f, REMOTE_IO_RES, data, 1024);
  f = (struct frame){0};
  f.params.res = (struct remote_io_res){3, -1, 7};
  send_frame(&f, REMOTE_IO_RES, NULL, 0);
  f = (struct frame){0};
  send_frame(&f, AGENT_SHUTDOWN, NULL, 0);
}

static uint32_t sum(const uint8_t *data, uint32_t size) {
  uint32_t all = 0;
  for (uint32_t i = 0; i < size; i++) all = all * 31 + data[i];
  return all;
}

static void fields(void) {
  struct frame f;
  while (take_frame(&f)) {
    uint32_t size = f.data_size_bytes;
    if (f.cmdid == PROTECTED_WRITE)
      printf("PROTECTED_WRITE volume_id=%" PRIu64 " offset_sectors=%" PRIu64 " size_sectors=%u ret_status=%d",
             f.params.write.volume_id, f.params.write.offset_sectors, f.params.write.size_sectors, f.params.write.ret_status);
    else if (f.cmdid == REPORT_VM_VOLUMES) {
      printf("REPORT_VM_VOLUMES num_volumes=%d", f.params.report.num_volumes);
      const struct volume_record *records = (void *)payload;
      for (int i = 0; i < f.params.report.num_volumes; i++)
        printf(" [%s %" PRIu64 " %" PRIu64 "]", records[i].name, records[i].volume_id, records[i].size_bytes);
    } else if (f.cmdid == START_PROTECT)
      printf("START_PROTECT volume_id=%" PRIu64 " name=%.*s", f.params.start.volume_id, (int)f.params.start.name_length, payload);
    else if (f.cmdid == REMOTE_IO_REQ)
      printf("REMOTE_IO_REQ req_id=%d size_sectors=%d volume_id=%" PRIu64 " offset_sectors=%" PRIu64 " is_read=%d",
             f.params.req.req_id, f.params.req.size_sectors, f.params.req.volume_id, f.params.req.offset_sectors, f.params.req.is_read);
    else if (f.cmdid == REMOTE_IO_RES)
      printf("REMOTE_IO_RES req_id=%d io_status=%d volume_id=%" PRIu64, f.params.res.req_id, f.params.res.io_status, f.params.res.volume_id);
    else if (f.cmdid == AGENT_SHUTDOWN) printf("AGENT_SHUTDOWN");
    else printf("command %d", f.cmdid);
    printf(" data=%u sum=%u\n", size, sum(payload, size));
  }
}

/* The sectors that were written since protection began: an answer to a read may hold older bytes of them. */
static uint8_t *newer;

static void hub_write(int image, const struct frame *f, uint64_t sectors) {
  const struct protected_write *w = &f->params.write;
  errno = 0;
  if (w->offset_sectors + w->size_sectors > sectors) die("a write beyond the volume's end");
  if (w->ret_status != 0 || f->data_size_bytes != w->size_sectors * SECTOR) die("a write without its data");
  if (pwrite(image, payload, f->data_size_bytes, w->offset_sectors * SECTOR) != (ssize_t)f->data_size_bytes) die("pwrite");
  memset(newer + w->offset_sectors, 1, w->size_sectors);
}

static void hub(const char *path, const char *volume) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  if (bind(listener, (void *)&address, length) || listen(listener, 1)) die("listen");
  getsockname(listener, (void *)&address, &length);
  printf("port %d\n", ntohs(address.sin_port));
  fflush(stdout);
  in_fd = out_fd = accept(listener, NULL, NULL);
  int image = open(path, O_RDWR | O_CREAT, 0600);
  if (in_fd < 0 || image < 0) die("open");
  struct frame f;
  uint64_t id = 0, sectors = 0, asked = 0, answered = 0;
  while (take_frame(&f)) {
    if (f.cmdid == REPORT_VM_VOLUMES && sectors == 0) {
      const struct volume_record *records = (void *)payload;
      for (int i = 0; i < f.params.report.num_volumes; i++) {
        if (strcmp(records[i].name, volume)) continue;
        id = records[i].volume_id;
        sectors = records[i].size_bytes / SECTOR;
      }
      errno = 0;
      if (sectors == 0) die("the volume was not reported");
      if (ftruncate(image, sectors * SECTOR)) die("ftruncate");
      newer = calloc(sectors, 1);
      struct frame start = {0};
      start.params.start = (struct start_protect){id, strlen(volume)};
      send_frame(&start, START_PROTECT, volume, strlen(volume));
    } else if (f.cmdid == PROTECTED_WRITE) {
      hub_write(image, &f, sectors);
    } else if (f.cmdid == REMOTE_IO_RES) {
      errno = 0;
      if (f.params.res.io_status) die("a read failed");
      uint64_t from = (uint64_t)f.params.res.req_id * READ_SECTORS;
      for (uint64_t i = 0; i < f.data_size_bytes / SECTOR; i++)
        if (!newer[from + i] && pwrite(image, payload + i * SECTOR, SECTOR, (from + i) * SECTOR) != SECTOR) die("pwrite");
      answered++;
    } else if (f.cmdid == AGENT_SHUTDOWN) {
      errno = 0;
      if (asked * READ_SECTORS < sectors || answered < asked) die("the agent left before the volume was read");
      if (fsync(image)) die("fsync");
      return;
    }
    while (sectors && asked * READ_SECTORS < sectors && asked < answered + WINDOW) {
      uint64_t left = sectors - asked * READ_SECTORS;
      struct frame ask = {0};
      ask.params.req = (struct remote_io_req){asked, left < READ_SECTORS ? left : READ_SECTORS, id, asked * READ_SECTORS, 1};
      send_frame(&ask, REMOTE_IO_REQ, NULL, 0);
      if (++asked * READ_SECTORS >= sectors) {
        printf("asked for all of it\n");
        fflush(stdout);
      }
    }
  }
  errno = 0;
  die("the agent left without a goodbye");
}

static void agent_answer(int image, const struct frame *f) {
  const struct remote_io_req *req = &f->params.req;
  uint32_t size = (uint32_t)req->size_sectors * SECTOR;
  static uint8_t data[4 << 20];
  errno = 0;
  if (!req->is_read || req->size_sectors <= 0 || size > sizeof data) die("a request that no hub should send");
  int good = pread(image, data, size, req->offset_sectors * SECTOR) == (ssize_t)size;
  struct frame answer = {0};
  answer.params.res = (struct remote_io_res){req->req_id, good ? 0 : -1, req->volume_id};
  send_frame(&answer, REMOTE_IO_RES, data, good ? size : 0);
}

static void agent_change(int image, uint64_t id, uint64_t sectors, int number) {
  static uint8_t data[64 * SECTOR];
  uint32_t count = 1 + rand() % 64;
  uint64_t at = rand() % (sectors - count);
  for (uint32_t i = 0; i < count * SECTOR; i++) data[i] = rand();
  /* Every tenth fails half-way: some of it is on the disk, and the hub is told that it can't know what. */
  int failed = number % 10 == 9;
  uint32_t size = failed ? count * SECTOR / 2 : count * SECTOR;
  if (pwrite(image, data, size, at * SECTOR) != (ssize_t)size) die("pwrite");
  struct frame f = {0};
  f.params.write = (struct protected_write){id, at, count, failed ? -1 : 0};
  send_frame(&f, PROTECTED_WRITE, data, failed ? 0 : size);
}

static void agent(int port, const char *path, const char *volume, int count) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  in_fd = out_fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(in_fd, (void *)&address, sizeof address)) die("connect");
  int image = open(path, O_RDWR);
  struct stat stat;
  if (image < 0 || fstat(image, &stat)) die("open");
  struct frame f = {0};
  struct volume_record record = {.volume_id = 1, .size_bytes = stat.st_size};
  strncpy(record.name, volume, 255);
  f.params.report.num_volumes = 1;
  send_frame(&f, REPORT_VM_VOLUMES, &record, sizeof record);
  uint64_t id = 0;
  int started = 0, made = 0;
  for (;;) {
    struct pollfd polled[2] = {{in_fd, POLLIN, 0}, {0, POLLIN, 0}};
    if (poll(polled, 2, started && made < count ? 0 : -1) < 0) die("poll");
    if (polled[0].revents) {
      if (!take_frame(&f)) die("the hub left");
      if (f.cmdid == REMOTE_IO_REQ) agent_answer(image, &f);
      else if (f.cmdid == START_PROTECT) id = f.params.start.volume_id, started = 1;
      else errno = 0, die("a command that no hub should send");
    } else if (polled[1].revents) {
      break;
    }
    if (started && made < count) {
      agent_change(image, id, stat.st_size / SECTOR, made++);
      if (made == count) printf("made all changes\n"), fflush(stdout);
    }
  }
  if (fsync(image)) die("fsync");
  f = (struct frame){0};
  send_frame(&f, AGENT_SHUTDOWN, NULL, 0);
  shutdown(out_fd, SHUT_WR);
  while (take_frame(&f)) {}
}

int main(int argc, char **argv) {
  payload = malloc(MAX_PAYLOAD);
  out_fd = 1;
  if (argc == 2 && !strcmp(argv[1], "frames")) frames();
  else if (argc == 2 && !strcmp(argv[1], "fields")) fields();
  else if (argc == 4 && !strcmp(argv[1], "hub")) hub(argv[2], argv[3]);
  else if (argc == 6 && !strcmp(argv[1], "agent")) agent(atoi(argv[2]), argv[3], argv[4], atoi(argv[5]));
  else return fprintf(stderr, "rfc-peer: frames | fields | hub IMAGE VOLUME | agent PORT IMAGE VOLUME COUNT\n"), 2;
  return 0;
}
