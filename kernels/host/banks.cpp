#include "banks.h"

#include <algorithm>
#include <stdlib.h>
#include <string.h>

namespace host {

struct Touch {
    u64 pc;
    u32 offset;
    u16 bytes;
    u8 kind, lane;
    u32 nth;  // of this lane at this instruction
};

struct Log {
    Touch* at;
    u32 count, room;
};

constexpr u32 PLACES = 1 << 14;

struct Banks {
    Log logs[MAX_THREADS];
    Log sorted;
    u32 places;
    BankCount counts[PLACES + 1];  // by a hash of pc; what has no room is added up behind them
};

static Touch* extend(Log& log, u32 more) {
    if (log.count + more > log.room) {
        log.room = 2 * (log.count + more) + 14;
        log.at = static_cast<Touch*>(realloc(log.at, log.room * sizeof(Touch)));
        if (log.at == nullptr) abort();
    }
    log.count += more;
    return log.at + log.count - more;
}

void note_access(Banks& banks, u32 thread, Kind kind, u32 offset, u32 bytes, const void* pc) {
    // No instruction moves more than 16 bytes: a larger struct is copied by several.
    for (u32 done = 0; done < bytes; done += 16) {
        const u16 now = u16(bytes - done < 16 ? bytes - done : 16);
        *extend(banks.logs[thread], 1) = {reinterpret_cast<u64>(pc), offset + done, now, u8(kind), u8(thread % 32), 0};
    }
}

static BankCount& place(Banks& b, u64 pc, Kind kind) {
    u32 at = u32(pc * 0x9E3779B97F4A7C15ull >> 50);
    while (b.counts[at].requests != 0 && (b.counts[at].pc != pc || b.counts[at].kind != kind)) at = (at + 1) % PLACES;
    if (b.counts[at].requests == 0) {
        if (b.places == PLACES - 1) return b.counts[PLACES];
        ++b.places;
        b.counts[at].pc = pc;
        b.counts[at].kind = kind;
    }
    return b.counts[at];
}

// The lanes of one phase: cycles that their fullest bank takes.
static u32 cycles(const Touch* const* lanes, u32 count) {
    u32 words[32 * 4], used = 0, load[32] = {};
    for (u32 i = 0; i < count; ++i) {
        const Touch& t = *lanes[i];
        for (u32 word = t.offset / 4; word <= (t.offset + t.bytes - 1) / 4; ++word) {
            const bool merges = Kind(t.kind) != Kind::Atomic;
            u32 seen = 0;
            while (seen < used && !(merges && words[seen] == word)) ++seen;
            if (seen < used) continue;
            if (used < sizeof words / sizeof words[0]) words[used++] = word;
            ++load[word % 32];
        }
    }
    u32 most = 0;
    for (u32 bank = 0; bank < 32; ++bank) most = load[bank] > most ? load[bank] : most;
    return most;
}

// One request; the lanes ascend.
static void count_request(Banks& banks, const Touch* const* lanes, u32 count) {
    BankCount& total = place(banks, lanes[0]->pc, Kind(lanes[0]->kind));
    const u32 bytes = lanes[0]->bytes, width = bytes > 8 ? 8 : bytes > 4 ? 16 : 32;
    ++total.requests;
    for (u32 first = 0; first < count;) {
        u32 end = first + 1;
        while (end < count && lanes[end]->lane / width == lanes[first]->lane / width) ++end;
        total.extra += cycles(lanes + first, end - first) - 1;
        first = end;
    }
}

static bool same_instructions(const Log& a, const Log& b) {
    for (u32 i = 0; i < a.count; ++i)
        if (a.at[i].pc != b.at[i].pc) return false;
    return true;
}

// Lanes that have gone different ways: by instruction and how often each lane came there.
static void count_apart(Banks& banks, const Log* logs) {
    Log& all = banks.sorted;
    all.count = 0;
    for (u32 lane = 0; lane < 32; ++lane) {
        const u32 count = logs[lane].count;
        Touch* const own = extend(all, count);
        if (count == 0) continue;
        memcpy(own, logs[lane].at, count * sizeof(Touch));
        for (u32 i = 0; i < count; ++i) own[i].nth = i;
        std::sort(own, own + count, [](const Touch& a, const Touch& b) { return a.pc != b.pc ? a.pc < b.pc : a.nth < b.nth; });
        for (u32 i = 0; i < count; ++i) own[i].nth = i > 0 && own[i - 1].pc == own[i].pc ? own[i - 1].nth + 1 : 0;
    }
    std::sort(all.at, all.at + all.count, [](const Touch& a, const Touch& b) {
        return a.pc != b.pc ? a.pc < b.pc : a.nth != b.nth ? a.nth < b.nth : a.lane < b.lane;
    });
    for (u32 i = 0; i < all.count;) {
        const Touch* lanes[32];
        u32 count = 0;
        const Touch& first = all.at[i];
        while (i < all.count && all.at[i].pc == first.pc && all.at[i].nth == first.nth) lanes[count++] = &all.at[i++];
        count_request(banks, lanes, count);
    }
}

void count_banks(Banks& banks, u32 warp) {
    Log* const logs = banks.logs + 32 * warp;
    bool equal = true;
    const Log* first = nullptr;
    u32 active = 0, of[32];
    for (u32 lane = 0; lane < 32 && equal; ++lane) {
        if (logs[lane].count == 0) continue;
        if (first == nullptr) first = &logs[lane];
        equal = logs[lane].count == first->count && same_instructions(*first, logs[lane]);
        of[active++] = lane;
    }
    if (first == nullptr) return;
    if (equal) {
        const Touch* lanes[32];
        for (u32 i = 0; i < first->count; ++i) {
            for (u32 k = 0; k < active; ++k) lanes[k] = logs[of[k]].at + i;
            count_request(banks, lanes, active);
        }
    } else {
        count_apart(banks, logs);
    }
    for (u32 lane = 0; lane < 32; ++lane) logs[lane].count = 0;
}

Banks* make_banks() {
    Banks* b = static_cast<Banks*>(calloc(1, sizeof(Banks)));
    if (b == nullptr) abort();
    return b;
}

void free_banks(Banks* b) {
    if (b == nullptr) return;
    for (Log& log : b->logs) free(log.at);
    free(b->sorted.at);
    free(b);
}

u64 bank_counts(const Banks* b, BankCount* out, u64 room) {
    u64 used = 0;
    for (const BankCount& count : b->counts)
        if (count.requests != 0 && used++ < room) out[used - 1] = count;
    return used;
}

}  // namespace host
