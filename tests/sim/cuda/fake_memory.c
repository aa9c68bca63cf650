/* fake_memory.c - device memory that only the fake GPU can read; pinned memory.
 *
 * An allocation is two mappings: its address, without access, and as much for
 * content, of which only touched pages exist. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ROUND_BYTES   512
#define POISON        0xee
#define POISON_BYTES  ((size_t) 64 << 20)     /* of pinned memory, at most */
#define FILL_BYTES    ((size_t) 1 << 20)      /* larger fills are not done */

static char *
map(size_t bytes, int protection)
{
    void  *p = mmap(NULL, bytes, protection,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static struct fake_area *
add_area(struct fake_area *areas, int *num, char *address, char *content,
         size_t bytes)
{
    if (address == NULL || content == NULL || *num == FAKE_AREAS_MAX) {
        fake_fault("this machine has no %zu bytes of address space, or areas "
                   "are more than %d", bytes, FAKE_AREAS_MAX);
    }
    areas[*num] = (struct fake_area) { address, content, bytes };
    return &areas[(*num)++];
}

/* Takes it out of the list. */
static struct fake_area
take_area(struct fake_area *areas, int *num, const void *address)
{
    for (int i = 0; i < *num; i++) {
        if (areas[i].address == address) {
            struct fake_area  found = areas[i];
            areas[i] = areas[--*num];
            return found;
        }
    }
    fake_fault("free of %p, which is not allocated", address);
}

static void
unmap(const struct fake_area *a)
{
    (void) munmap(a->address, a->bytes);
    if (a->content != a->address) {
        (void) munmap(a->content, a->bytes);
    }
}

static const struct fake_area *
find_area(const struct fake_area *areas, int num, const void *address,
          size_t bytes)
{
    uintptr_t  at = (uintptr_t) address;
    for (int i = num - 1; i >= 0; i--) {
        uintptr_t  begin = (uintptr_t) areas[i].address;
        if (at >= begin && bytes <= areas[i].bytes
            && at - begin <= areas[i].bytes - bytes)
        {
            return &areas[i];
        }
    }
    return NULL;
}

void *
fake_at(const void *address, size_t bytes, const char *what)
{
    const struct fake_area  *a = find_area(fake.device, fake.num_device,
                                           address, bytes);
    if (a == NULL) {
        fake_fault("%s: %p + %zu bytes are not in device memory", what,
                   address, bytes);
    }
    return a->content + ((uintptr_t) address - (uintptr_t) a->address);
}

void
fake_in_pinned(const void *address, size_t bytes, const char *what)
{
    if (find_area(fake.pinned, fake.num_pinned, address, bytes) == NULL) {
        fake_fault("%s: %p + %zu bytes are not in pinned memory", what,
                   address, bytes);
    }
}

void
fake_memory_drop(void)
{
    while (fake.num_device > 0) {
        unmap(&fake.device[--fake.num_device]);
    }
    while (fake.num_pinned > 0) {
        unmap(&fake.pinned[--fake.num_pinned]);
    }
}

/* ---- allocation --------------------------------------------------------------------- */

cudaError_t
cudaMalloc(void **out, size_t bytes)
{
    bytes = (bytes + ROUND_BYTES - 1) / ROUND_BYTES * ROUND_BYTES;
    if (fake_fails(FAKE_MALLOC)
        || bytes > fake.options.total_bytes - fake.used)
    {
        return cudaErrorMemoryAllocation;
    }
    *out = add_area(fake.device, &fake.num_device, map(bytes, PROT_NONE),
                    map(bytes, PROT_READ | PROT_WRITE), bytes)->address;
    fake.used += bytes;
    return cudaSuccess;
}

/* Waits for what uses it. */
cudaError_t
cudaFree(void *address)
{
    if (address == NULL) {
        return cudaSuccess;
    }
    fake_run_until(fake.tail);
    struct fake_area  a = take_area(fake.device, &fake.num_device, address);
    fake.used -= a.bytes;
    unmap(&a);
    return cudaSuccess;
}

cudaError_t
cudaMallocHost(void **out, size_t bytes)
{
    if (fake_fails(FAKE_PINNED)) {
        return cudaErrorMemoryAllocation;
    }
    char  *p = map(bytes, PROT_READ | PROT_WRITE);
    *out = add_area(fake.pinned, &fake.num_pinned, p, p, bytes)->address;
    memset(p, POISON, bytes < POISON_BYTES ? bytes : POISON_BYTES);
    return cudaSuccess;
}

cudaError_t
cudaFreeHost(void *address)
{
    fake_run_until(fake.tail);
    struct fake_area  a = take_area(fake.pinned, &fake.num_pinned, address);
    unmap(&a);
    return cudaSuccess;
}

cudaError_t
cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = fake.options.total_bytes;
    *free_bytes = fake.options.total_bytes - fake.used;
    return cudaSuccess;
}

cudaError_t
cudaHostRegister(void *address, size_t bytes, unsigned int flags)
{
    (void) address;
    (void) bytes;
    (void) flags;
    return cudaSuccess;
}

cudaError_t
cudaHostUnregister(void *address)
{
    (void) address;
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------- */

struct copy {
    void       *to;
    const void *from;
    size_t      bytes;
    bool        up;
};

/* The host's memory is read, or written, as late as this. */
static void
run_copy(void *args)
{
    const struct copy  *c = args;
    if (c->up) {
        memcpy(fake_at(c->to, c->bytes, "upload"), c->from, c->bytes);
    } else {
        memcpy(c->to, fake_at(c->from, c->bytes, "download"), c->bytes);
    }
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                enum cudaMemcpyKind kind, cudaStream_t stream)
{
    FAKE_CHECK(fake.recording == NULL && stream == fake.stream);
    FAKE_CHECK(kind == cudaMemcpyHostToDevice
               || kind == cudaMemcpyDeviceToHost);
    FAKE_PUSH(run_copy, (&(struct copy) { to, from, bytes,
                                          kind == cudaMemcpyHostToDevice }));
    return cudaSuccess;
}

struct fill {
    void   *to;
    int     byte;
    size_t  bytes;
};

static void
run_fill(void *args)
{
    const struct fill  *f = args;
    void               *content = fake_at(f->to, f->bytes, "fill");
    if (f->bytes <= FILL_BYTES) {
        memset(content, f->byte, f->bytes);
    }
}

cudaError_t
cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream)
{
    FAKE_CHECK(fake.recording == NULL && stream == fake.stream);
    FAKE_PUSH(run_fill, (&(struct fill) { to, byte, bytes }));
    return cudaSuccess;
}
