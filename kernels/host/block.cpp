// One block: its fibers, their barriers and their warp-wide meetings.
#include "banks.h"
#include "memory.h"

#include <stdio.h>
#include <string.h>

namespace host {

static void make_ready(Worker& w, u32 fiber) {
    w.fibers[fiber].state = State::Ready;
    const u32 at = w.launch->lifo ? w.ready_count : (w.ready_head + w.ready_count) % MAX_THREADS;
    w.ready[at] = u16(fiber);
    ++w.ready_count;
}

static u32 take_ready(Worker& w) {
    --w.ready_count;
    if (w.launch->lifo) return w.ready[w.ready_count];
    const u32 fiber = w.ready[w.ready_head];
    w.ready_head = (w.ready_head + 1) % MAX_THREADS;
    return fiber;
}

static bool same_place(const Fiber& a, const Fiber& b) {
    return a.state == b.state && (a.state == State::Done || (a.what == b.what && a.site == b.site));
}

// Nobody can go on: who waits where.
[[noreturn]] static void deadlock(Worker& w) {
    char text[640];
    size_t used = 0;
    u32 blamed = NONE;
    for (u32 i = 0; i < w.threads && used < sizeof text - 120;) {
        u32 last = i;
        while (last + 1 < w.threads && same_place(w.fibers[i], w.fibers[last + 1])) ++last;
        const Fiber& f = w.fibers[i];
        const bool one = i == last;
        const char* form = one ? "%sthread %u " : "%sthreads %u-%u ";
        used += size_t(snprintf(text + used, sizeof text - used, form, used == 0 ? "" : "; ", i, last));
        if (f.state == State::Done) {
            used += size_t(snprintf(text + used, sizeof text - used, one ? "has exited" : "have exited"));
        } else {
            blamed = blamed == NONE ? i : blamed;
            used += size_t(snprintf(text + used, sizeof text - used, "%s at %s%s", one ? "waits" : "wait", f.what,
                                    Place(f.site).text));
        }
        i = last + 1;
    }
    fail(blamed, NOWHERE, "divergent synchronisation: %s", text);
}

// Leaves the running fiber, which waits or has ended, for the next one that can run.
void reschedule(Worker& w) {
    Fiber& from = w.fibers[w.thread];
    if (w.ready_count == 0) {
        if (w.done == w.threads) rewire_host_switch(&from.sp, w.home);
        deadlock(w);
    }
    const u32 next = take_ready(w);
    w.thread = next;
    w.warp = next / 32;
    rewire_host_switch(&from.sp, w.fibers[next].sp);
}

static void fiber_entry() {
    Worker& w = *self;
    w.launch->kernel->run(w.launch->words);
    const Fiber& me = w.fibers[w.thread];
    if (me.copy_count > 0) fail(w.thread, at(me.copies[0].pc), "exits while its cp.async is under way");
    w.fibers[w.thread].state = State::Done;
    ++w.done;
    reschedule(w);
    __builtin_unreachable();
}

static void begin_block(Worker& w, u64 block) {
    const Launch& l = *w.launch;
    w.block = block;
    w.mark_of_reader = (block + 1) << 20;
    w.mark_of_writer = (block + 1) | 15ull << 54;
    w.block_index = {u32(block % l.grid.x), u32(block / l.grid.x % l.grid.y), u32(block / l.grid.x / l.grid.y)};
    w.budget = (long long)l.budget;
    w.start = w.full = ++w.stamp;
    w.done = w.ready_head = w.ready_count = w.waiting = 0;
    w.waiters = NONE;
    w.fenced = w.met = false;
    memset(reinterpret_cast<void*>(w.shared_base), 0xFF, w.shared_end);
    memset(w.seen, 0, sizeof w.seen[0] * w.warps);
    for (u32 i = 0; i < w.warps; ++i) w.warp_state[i].open = 0;
    for (u32 i = 0; i < w.threads; ++i) {
        Fiber& f = w.fibers[i];
        f.sp = fiber_prepare(fiber_stack_top(w.stacks, i), fiber_entry);
        f.copy_count = f.group = 0;
        f.acquired = false;
        make_ready(w, i);
    }
}

void run_block(Worker& w, u64 block) {
    begin_block(w, block);
    const u32 first = take_ready(w);
    w.thread = first;
    w.warp = first / 32;
    rewire_host_switch(&w.home, w.fibers[first].sp);
    for (u32 i = 0; w.banks != nullptr && i < w.warps; ++i) count_banks(*w.banks, i);
}

void barrier(Site site) {
    site.pc = HOST_PC;
    Worker& w = *self;
    Fiber& me = w.fibers[w.thread];
    if (--w.budget < 0) exhausted(w, site);
    if (w.waiting == 0) {
        w.barrier_site = site;
    } else if (w.barrier_site != site) {
        fail(w.thread, site, "arrives at __syncthreads while thread %u waits at another%s", w.waiters,
             Place(w.barrier_site).text);
    }
    if (++w.waiting < w.threads) {
        me.state = State::Barrier;
        me.what = "__syncthreads";
        me.site = site;
        me.next = w.waiters;
        w.waiters = u16(w.thread);
        reschedule(w);
        return;
    }
    w.full = ++w.stamp;
    w.waiting = 0;
    for (u32 i = 0; w.banks != nullptr && i < w.warps; ++i) count_banks(*w.banks, i);
    // The list is in reverse order of arrival.
    u16 order[MAX_THREADS];
    u32 count = 0;
    for (u32 i = w.waiters; i != NONE; i = w.fibers[i].next) order[count++] = u16(i);
    w.waiters = NONE;
    while (count > 0) make_ready(w, order[--count]);
}

// Whether the lanes of `mask` are all of the running warp that have not ended.
static bool whole_warp(const Worker& w, u32 mask) {
    const u32 first = w.warp * 32;
    for (u32 i = 0; i < 32 && first + i < w.threads; ++i)
        if ((mask >> i & 1) == 0 && w.fibers[first + i].state != State::Done) return false;
    return true;
}

void meet(void (*run)(void* const*, u32), void* payload, u32 mask, const char* what, Site site) {
    Worker& w = *self;
    const u32 lane = w.thread % 32, bit = 1u << lane;
    if (--w.budget < 0) exhausted(w, site);
    if ((mask & bit) == 0) fail(w.thread, site, "%s with mask 0x%08x, which lacks the lane itself", what, mask);
    Warp& warp = w.warp_state[w.warp];
    Meeting* m = nullptr;
    for (u32 i = 0; i < warp.open && m == nullptr; ++i) {
        Meeting& other = warp.meetings[i];
        if (other.mask == mask) m = &other;
        else if ((other.mask & mask) != 0 && (other.arrived & mask) != 0)
            fail(w.thread, site, "%s with mask 0x%08x while lanes of it wait at %s with mask 0x%08x%s", what, mask,
                 other.what, other.mask, Place(other.site).text);
    }
    if (m == nullptr) {
        const u32 first = w.warp * 32, present = w.threads - first >= 32 ? 32 : w.threads - first;
        for (u32 i = 0; i < 32; ++i) {
            if ((mask >> i & 1) == 0) continue;
            if (i >= present)
                fail(w.thread, site, "%s with mask 0x%08x names lane %u, but the warp has %u lanes", what, mask, i,
                     present);
            if (w.fibers[first + i].state == State::Done)
                fail(w.thread, site, "%s with mask 0x%08x names lane %u, whose thread %u has exited", what, mask, i,
                     first + i);
        }
        m = &warp.meetings[warp.open++];
        m->mask = mask;
        m->arrived = 0;
        m->run = run;
        m->what = what;
        m->site = site;
    } else if (m->run != run || m->site != site) {
        fail(w.thread, site, "arrives at %s while lane %d waits at %s%s", what, __builtin_ctz(m->arrived), m->what,
             Place(m->site).text);
    }
    m->arrived |= bit;
    m->lanes[lane] = payload;
    if (m->arrived != mask) {
        Fiber& me = w.fibers[w.thread];
        me.state = State::Warp;
        me.what = what;
        me.site = site;
        me.mask = mask;
        reschedule(w);
        return;
    }
    if (run != nullptr) {
        run(m->lanes, mask);
    } else {
        w.seen[w.warp][w.warp] = ++w.stamp;
    }
    if (w.banks != nullptr && whole_warp(w, mask)) count_banks(*w.banks, w.warp);
    for (u32 i = 0; i < 32; ++i)
        if ((mask >> i & 1) != 0 && i != lane) make_ready(w, w.warp * 32 + i);
    // The last open meeting takes the closed one's place.
    const u32 at = u32(m - warp.meetings), last = --warp.open;
    if (at != last) warp.meetings[at] = warp.meetings[last];
}

void sync_warp(u32 mask, Site site) { meet(nullptr, nullptr, mask, "__syncwarp", site.at(HOST_PC)); }

u32 thread_x() { return self->thread_index[self->thread].x; }
u32 thread_y() { return self->thread_index[self->thread].y; }
u32 thread_z() { return self->thread_index[self->thread].z; }
u32 block_x() { return self->block_index.x; }
u32 block_y() { return self->block_index.y; }
u32 block_z() { return self->block_index.z; }
u32 block_dim_x() { return self->launch->block.x; }
u32 block_dim_y() { return self->launch->block.y; }
u32 block_dim_z() { return self->launch->block.z; }
u32 grid_dim_x() { return self->launch->grid.x; }
u32 grid_dim_y() { return self->launch->grid.y; }
u32 grid_dim_z() { return self->launch->grid.z; }

// The dynamic object's identity.
static const char dynamic_site = 0;

// A chunk or more lies between two objects, so that running over one of them is seen.
void* shared_object(const void* id, size_t bytes) {
    Worker& w = *self;
    for (u32 i = 0; i < w.object_count; ++i)
        if (w.objects[i].id == id) return reinterpret_cast<void*>(w.shared_base + w.objects[i].offset);
    if (w.object_count == MAX_OBJECTS) fail(w.thread, NOWHERE, "more than %u shared objects in one block", MAX_OBJECTS);
    u32 used = 0;
    for (u32 i = 0; i < w.object_count; ++i) used += w.objects[i].id == &dynamic_site ? 0 : w.objects[i].bytes;
    if (id != &dynamic_site && used + bytes > w.launch->kernel->static_shared)
        fail(w.thread, NOWHERE, "%zu bytes of static shared memory, docs/kernels.txt says %u: python .ci/kernels.py --write",
             used + bytes, w.launch->kernel->static_shared);
    if (id != &dynamic_site && used + bytes + w.launch->dynamic_bytes > SHARED_BYTES)
        fail(w.thread, NOWHERE, "%zu bytes of shared memory, the limit is %u", used + bytes + w.launch->dynamic_bytes,
             SHARED_BYTES);
    const u32 offset = w.shared_end, end = offset + u32((bytes + 2 * CHUNK - 1) / CHUNK * CHUNK);
    memset(reinterpret_cast<void*>(w.shared_base + offset), 0xFF, end - offset);
    for (u32 i = offset; i < end; i += CHUNK) {
        const u32 left = i < offset + bytes ? u32(offset + bytes) - i : 0;
        w.chunks[i / CHUNK] = u8(left < CHUNK ? left : CHUNK);
    }
    w.objects[w.object_count++] = {id, offset, u32(bytes)};
    w.shared_end = end;
    return reinterpret_cast<void*>(w.shared_base + offset);
}

void* dynamic_shared() {
    Worker& w = *self;
    if (w.launch->dynamic_bytes == 0) return reinterpret_cast<void*>(w.shared_base + w.shared_end);
    return shared_object(&dynamic_site, w.launch->dynamic_bytes);
}

// The meeting that a twin runs for: the one that is complete.
static const Meeting& complete_meeting(const Worker& w) {
    const Warp& warp = w.warp_state[w.warp];
    u32 i = 0;
    while (warp.meetings[i].arrived != warp.meetings[i].mask) ++i;
    return warp.meetings[i];
}

void reject(u32 lane, const char* what) { fail(self->warp * 32 + lane, complete_meeting(*self).site, "%s", what); }

void shuffle(void* const* lanes, u32 mask) {
    Worker& w = *self;
    for (u32 i = 0; i < 32; ++i) {
        if ((mask >> i & 1) == 0) continue;
        ShuffleLane& lane = *static_cast<ShuffleLane*>(lanes[i]);
        if ((mask >> lane.source & 1) == 0) {
            const Meeting& m = complete_meeting(w);
            fail(w.warp * 32 + i, m.site, "%s from lane %u, which is not in the mask 0x%08x", m.what, lane.source,
                 mask);
        }
        lane.out = static_cast<ShuffleLane*>(lanes[lane.source])->value;
    }
}

}  // namespace host
