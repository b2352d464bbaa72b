//! The matrix units of Intel's processors from 2023 on.

use super::operands::{Bf16Tile, COLUMNS, SUMS, TapStep};
use crate::cpu::bf16::layout::ROW;
use half::bf16;
use std::arch::asm;

// Sizes that the templates below spell out: a tile of weights, one of sums, a step.
const _: () = assert!(2 * COLUMNS * ROW == 1024 && 4 * SUMS == 1024 && size_of::<TapStep>() == 16);

/// Asks the system for the tiles' state, which it keeps for each thread that has touched them.
#[cfg(target_os = "linux")]
pub(super) fn is_there() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    // SAFETY: the call takes two numbers and changes nothing but the permission.
    leaf.edx & BF16_AND_TILE == BF16_AND_TILE
        && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) }
            == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_there() -> bool {
    false
}

#[repr(C, align(64))]
struct Config([u8; 64]);

/// All eight tiles of 16 rows of 64 bytes.
const CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Config(bytes)
};

pub(super) unsafe fn begin() {
    static STORED: Config = CONFIG;
    // SAFETY: a valid configuration, read only.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            in(reg) &STORED,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

pub(super) unsafe fn end() {
    // SAFETY: gives the tiles' state up, which then costs nothing when threads are switched.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

/// What the loop below keeps in memory: there are too few registers.
#[repr(C)]
struct Operands {
    x: [*const bf16; 2],
    weights: *const bf16,
    steps: *const TapStep,
    sums: *mut f32,
    lines: usize,
}

/// A tile for each unit and half stays in registers over all steps: two loads of activations and two of weights for
/// four products, each of which takes as long as two loads from the first cache. Activations are not kept there, as the weights are read
/// again sooner.
macro_rules! tiles {
    ($name:ident, [$($zero:literal)*], [$($load:literal)*], [$($second:literal)*], [$($product:literal)*], [$($store:literal)*]) => {
        unsafe fn $name(tile: &mut Bf16Tile) {
            let operands = Operands {
                x: [tile.x[0], tile.x[tile.x.len() - 1]],
                weights: tile.w,
                steps: tile.steps.as_ptr_range().end,
                sums: tile.sums.as_mut_ptr(),
                lines: tile.lines,
            };
            // SAFETY: by the caller's word; tiles are this block's alone.
            unsafe {
                asm!(
                    $($zero,)*
                    "cmp {steps}, [{operands} + 24]",
                    "jae 5f",
                    "2:",
                    "mov {x}, [{steps}]",
                    "mov {w}, [{steps} + 8]",
                    "add {x}, [{operands}]",
                    "add {w}, [{operands} + 16]",
                    $($load,)*
                    "sub {x}, [{operands}]",
                    "add {x}, [{operands} + 8]",
                    $($second,)*
                    $($product,)*
                    "mov {count}, [{operands} + 40]",
                    "test {count}, {count}",
                    "jz 4f",
                    "3:",
                    "prefetcht1 [{fetch}]",
                    "add {fetch}, 64",
                    "dec {count}",
                    "jnz 3b",
                    "4:",
                    "add {steps}, 16",
                    "cmp {steps}, [{operands} + 24]",
                    "jb 2b",
                    "5:",
                    "mov {x}, [{operands} + 32]",
                    $($store,)*
                    operands = in(reg) &operands,
                    steps = inout(reg) tile.steps.as_ptr() => _,
                    fetch = inout(reg) tile.fetch => _,
                    stride = in(reg) tile.stride,
                    line = in(reg) 2 * ROW,
                    x = out(reg) _,
                    w = out(reg) _,
                    count = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

tiles!(
    two_two,
    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
    ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]" "tileloadd tmm7, [{w} + {line} + 1024]"],
    ["tileloaddt1 tmm5, [{x} + {stride}]"],
    ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"
     "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"],
    ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 1024], tmm1"
     "tilestored [{x} + {line} + 2048], tmm2" "tilestored [{x} + {line} + 3072], tmm3"]
);
tiles!(
    two_one,
    ["tilezero tmm0" "tilezero tmm2"],
    ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]"],
    ["tileloaddt1 tmm5, [{x} + {stride}]"],
    ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm2, tmm5, tmm6"],
    ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 2048], tmm2"]
);
tiles!(
    one_two,
    ["tilezero tmm0" "tilezero tmm1"],
    ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]" "tileloadd tmm7, [{w} + {line} + 1024]"],
    [],
    ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"],
    ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 1024], tmm1"]
);
tiles!(
    one_one,
    ["tilezero tmm0"],
    ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]"],
    [],
    ["tdpbf16ps tmm0, tmm4, tmm6"],
    ["tilestored [{x} + {line}], tmm0"]
);

pub(super) unsafe fn tile(tile: &mut Bf16Tile) {
    // SAFETY: by the caller's word.
    unsafe {
        match (tile.x.len(), tile.halves) {
            (1, 1) => one_one(tile),
            (1, _) => one_two(tile),
            (_, 1) => two_one(tile),
            _ => two_two(tile),
        }
    }
}
