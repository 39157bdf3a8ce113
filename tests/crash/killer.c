/* Kills the process it is loaded into at the n-th call by which it changes the
 * world: a write, sync, cut, rename or removal of a file, a word to the guard
 * of its workers, an answer on a connection it accepted, the start of a process.
 *
 * Owns counting and the kill. Knows nothing of Repoint: LD_PRELOAD puts it in
 * front of libc, and the file named by CRASH_PAGE, mapped by it and read and
 * written by the test, says whether to count and when to kill. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The layout is also that of page.rs. */
struct page {
    _Atomic uint64_t loaded;  /* set here: the process listens */
    _Atomic uint64_t armed;   /* set by the test: count */
    _Atomic uint64_t answers; /* set by the test: what goes out on accepted connections counts too */
    _Atomic uint64_t torn;    /* set by the test: half of a write still happens */
    _Atomic uint64_t kill_at; /* set by the test: the call that is the last one */
    _Atomic uint64_t count;   /* set here */
    char what[256];           /* set here: the call it ended at */
    char kinds[1024];         /* set here: of each call counted, 'w' for a write of a file, 'o' for any other */
};

static struct page *page;
static long owner;

#define DESCRIPTORS 65536
static _Atomic unsigned char accepted[DESCRIPTORS];

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CRASH_PAGE");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    /* What this process starts is not counted and not killed. */
    unsetenv("CRASH_PAGE");
    unsetenv("LD_PRELOAD");
    owner = syscall(SYS_getpid);
    atomic_store(&((struct page *)mapped)->loaded, 1);
    page = mapped;
}

static void describe(const char *call, int fd, const char *path) {
    char link[64], name[192] = "";
    if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, name, sizeof name - 1);
        name[length < 0 ? 0 : length] = 0;
        path = name;
    }
    snprintf(page->what, sizeof page->what, "%s %s", call, path ? path : "");
}

/* Whether this call is the last one. */
static int is_last(const char *call, int fd, const char *path, int is_write) {
    if (!page || !atomic_load(&page->armed)) return 0;
    /* Between fork and exec the child shares the page. */
    if (syscall(SYS_getpid) != owner) return 0;
    uint64_t number = atomic_fetch_add(&page->count, 1) + 1;
    if (number <= sizeof page->kinds) page->kinds[number - 1] = is_write ? 'w' : 'o';
    if (number != atomic_load(&page->kill_at)) return 0;
    describe(call, fd, path);
    return 1;
}

static void die(void) {
    syscall(SYS_kill, owner, SIGKILL);
    for (;;) pause();
}

static void step(const char *call, int fd, const char *path) {
    if (is_last(call, fd, path, 0)) die();
}

enum kind { NOTHING, FILE_, PIPE, ANSWER };

static enum kind kind_of(int fd) {
    struct stat found;
    /* The log on standard error is not the state of anything. */
    if (!page || fd <= 2 || fstat(fd, &found)) return NOTHING;
    if (S_ISREG(found.st_mode)) return FILE_;
    if (S_ISFIFO(found.st_mode)) return PIPE;
    if (S_ISSOCK(found.st_mode) && fd < DESCRIPTORS && atomic_load(&accepted[fd]) && atomic_load(&page->answers))
        return ANSWER;
    return NOTHING;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    if (kind_of(fd) == FILE_ && is_last("pwrite", fd, NULL, 1)) {
        if (atomic_load(&page->torn)) NEXT(pwrite64)(fd, bytes, length / 2, at);
        die();
    }
    return NEXT(pwrite64)(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t write(int fd, const void *bytes, size_t length) {
    enum kind kind = kind_of(fd);
    if (kind != NOTHING && is_last("write", fd, NULL, kind == FILE_)) {
        if (kind == FILE_ && atomic_load(&page->torn)) NEXT(write)(fd, bytes, length / 2);
        die();
    }
    return NEXT(write)(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    if (kind_of(fd) != NOTHING) step("writev", fd, NULL);
    return NEXT(writev)(fd, pieces, count);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    if (kind_of(fd) == ANSWER) step("send", fd, NULL);
    return NEXT(send)(fd, bytes, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (kind_of(fd) == ANSWER) step("sendmsg", fd, NULL);
    return NEXT(sendmsg)(fd, message, flags);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    int taken = NEXT(accept4)(fd, address, length, flags);
    if (taken >= 0 && taken < DESCRIPTORS) atomic_store(&accepted[taken], 1);
    return taken;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    if (fd >= 0 && fd < DESCRIPTORS) atomic_store(&accepted[fd], 0);
    return NEXT(connect)(fd, address, length);
}

int fsync(int fd) {
    step("fsync", fd, NULL);
    return NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    step("fdatasync", fd, NULL);
    return NEXT(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t length) {
    step("ftruncate", fd, NULL);
    return NEXT(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* Where glibc has `open` itself, and so Rust and SQLite, it is variadic. */
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    if (flags & O_CREAT) step("create", -1, path);
    return NEXT(open64)(path, flags, mode);
}

int rename(const char *from, const char *to) {
    step("rename", -1, to);
    return NEXT(rename)(from, to);
}

int link(const char *from, const char *to) {
    step("link", -1, to);
    return NEXT(link)(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    step("link", -1, to);
    return NEXT(linkat)(from_dir, from, to_dir, to, flags);
}

int unlink(const char *path) {
    step("unlink", -1, path);
    return NEXT(unlink)(path);
}

int unlinkat(int dir, const char *path, int flags) {
    step("unlink", -1, path);
    return NEXT(unlinkat)(dir, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    step("mkdir", -1, path);
    return NEXT(mkdir)(path, mode);
}

int rmdir(const char *path) {
    step("rmdir", -1, path);
    return NEXT(rmdir)(path);
}

/* Before there is a child, and when there is one that nobody was told of. */
pid_t fork(void) {
    step("fork", -1, NULL);
    pid_t child = NEXT(fork)();
    if (child > 0) step("forked", -1, NULL);
    return child;
}

int posix_spawnp(pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const *arguments, char *const *variables) {
    step("spawn", -1, path);
    int failed = NEXT(posix_spawnp)(child, path, actions, attributes, arguments, variables);
    if (!failed) step("spawned", -1, path);
    return failed;
}
