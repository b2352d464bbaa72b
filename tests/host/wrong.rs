//! Every check finds its mistake: kernel, block, thread, what and where.

use super::{Buffer, both};
use rewire::device::host::{Host, HostOptions, Schedule};
use rewire::device::{Gpu, Launch};
use rewire::{Error, ErrorKind, Result};

/// `wrong.cu:N`, the line of `tests/kernels/wrong.cu` where the text begins, as messages name it.
fn line(text: &str) -> String {
    let source = include_str!("../kernels/wrong.cu");
    assert_eq!(source.matches(text).count(), 1, "{text}");
    let before = source.split(text).next().unwrap_or_default();
    format!("wrong.cu:{}", before.matches('\n').count() + 1)
}

/// Runs it on both schedules and looks for all parts in each message.
fn fails(run: impl Fn(&Host) -> Result<()>, parts: &[&str]) {
    for gpu in both() {
        let error: Error = run(&gpu).expect_err("the mistake was not seen");
        assert!(matches!(error.kind(), ErrorKind::Kernel { .. }), "{error:?}");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

/// One block that reads 512 floats and writes 256.
fn tile(name: &'static str, threads: u32) -> impl Fn(&Host) -> Result<()> {
    move |gpu| {
        let (x, y) = (Buffer::of(gpu, &[1f32; 512]), Buffer::new(gpu, 1024));
        Launch::new(name).block(threads, 1, 1).arg(&x).arg(&y).run(gpu)
    }
}

/// `blocks` blocks that write 256 floats.
fn write(name: &'static str, blocks: u32, threads: u32) -> impl Fn(&Host) -> Result<()> {
    move |gpu| {
        let y = Buffer::new(gpu, 1024);
        Launch::new(name).grid(blocks, 1, 1).block(threads, 1, 1).arg(&y).run(gpu)
    }
}

/// One block of 32 threads with an integer argument behind the output.
fn with_int(name: &'static str, value: i32) -> impl Fn(&Host) -> Result<()> {
    move |gpu| {
        let y = Buffer::new(gpu, 1024);
        Launch::new(name).block(32, 1, 1).arg(&y).arg(&value).run(gpu)
    }
}

#[test]
fn a_missing_barrier_is_found() {
    let at = line("tile[255 - threadIdx.x];  // no __syncthreads");
    fails(tile("wrong_missing_barrier", 256), &["load of shared byte", "that nobody wrote", &at]);
    let (store, load) =
        (line("// no __syncthreads after"), line("sum += tile[255 - threadIdx.x];"));
    let parts = ["of shared byte", &load, "with no barrier between", &store];
    fails(tile("wrong_missing_second_barrier", 256), &parts);
}

#[test]
fn a_missing_syncwarp_is_found() {
    let at = line("// no __syncwarp");
    fails(tile("wrong_missing_syncwarp", 64), &["shared byte", "no barrier between", &at]);
}

#[test]
fn a_missing_wait_for_cp_async_is_found() {
    let at = line("// no cp_async_wait before");
    let parts = ["load of shared byte", "while the cp.async of thread", "is under way", &at];
    fails(tile("wrong_missing_wait", 32), &parts);
    fails(tile("wrong_wait_for_older_group", 32), &parts[..3]);
    let at = line("// zeros that nobody waits for");
    fails(tile("wrong_exit_before_wait", 32), &["exits while its cp.async is under way", &at]);
}

#[test]
fn accesses_outside_memory_are_found() {
    let copy = |gpu: &Host| {
        let (x, y) = (Buffer::of(gpu, &[1f32; 64]), Buffer::new(gpu, 128));
        Launch::new("wrong_copy_source").block(32, 1, 1).arg(&x).arg(&y).arg(&64).run(gpu)
    };
    let at = line("// copies one too many");
    fails(copy, &["thread (16,0,0): load of 16 bytes", "outside every allocation", &at]);

    let store = |gpu: &Host| {
        let y = Buffer::new(gpu, 4 * 100);
        Launch::new("wrong_global_store").block(256, 1, 1).arg(&y).arg(&100).run(gpu)
    };
    let at = line("// stores one too many");
    let parts = ["block (0,0,0) thread (100,0,0): store of 4 bytes at 0x", "outside every", &at];
    fails(store, &parts);

    let at = line("p[blockDim.x] = 1.0f");
    let parts =
        ["thread (0,0,0): store of 4 bytes at byte 400 of a shared object of 400 bytes", &at];
    fails(write("wrong_shared_store", 1, 100), &parts);

    let dynamic = |gpu: &Host| {
        let y = Buffer::new(gpu, 1024);
        Launch::new("wrong_dynamic_shared").block(256, 1, 1).shared(1020).arg(&y).run(gpu)
    };
    let at = line(
        "tile[threadIdx.x] = 1.0f;\n    y[threadIdx.x] = tile[threadIdx.x];\n}\n\nextern \"C\" __global__ void __launch_bounds__(256) wrong_local",
    );
    fails(
        dynamic,
        &["thread (255,0,0): store of 4 bytes at byte 1020 of a shared object of 1020", &at],
    );
}

#[test]
fn mistakes_that_the_compiler_can_see_are_found() {
    fails(with_int("wrong_local_array", 4), &["index outside the array", &line("a[i] = float(i)")]);
    fails(with_int("wrong_division", 0), &["division by zero", &line("7 / by")]);
    fails(with_int("wrong_shift", 32), &["shift by a negative count", &line("1 << by")]);
    let null = |gpu: &Host| {
        Launch::new("wrong_null_pointer").arg(&super::Place(0)).block(32, 1, 1).run(gpu)
    };
    fails(null, &["null pointer", "wrong.cu:"]);
    // In global, shared and local memory.
    let at = line("reinterpret_cast<const float4*>(x + 1)");
    fails(tile("wrong_misaligned_vector", 32), &["misaligned address", &at]);
    fails(tile("wrong_misaligned_load_whole", 32), &["misaligned address", "types.cuh:"]);
    let at = line("reinterpret_cast<const u64*>(tile + 1)");
    fails(write("wrong_misaligned_shared", 1, 32), &["misaligned address", &at]);
    let at = line("reinterpret_cast<const float4*>(frame + at)");
    fails(with_int("wrong_misaligned_local", 1), &["misaligned address", &at]);
}

#[test]
fn misaligned_operands_of_instructions_are_found() {
    let at = line("cp_async16(&tile[5 * threadIdx.x]");
    let what = "cp.async: address not 16-byte aligned";
    fails(tile("wrong_misaligned_copy", 32), &[what, &at]);
    let what = "ldmatrix of an address that is not 16-byte aligned";
    fails(write("wrong_misaligned_matrix", 1, 32), &["thread (1,0,0)", what, "wrong.cu:"]);
}

#[test]
fn meetings_with_absent_lanes_are_found() {
    let at = line("y[threadIdx.x] = warp_sum(1.0f)");
    let what =
        "shfl_xor with mask 0xffffffff names lane 16, but the warp has 16 lanes (common/warp.cuh:";
    let parts = [what, &format!("in {at}")];
    fails(write("wrong_partial_warp", 1, 48), &parts);
    fails(write("wrong_exited_lane", 1, 32), &["thread 7 has exited", &line("shfl_xor(1.0f, 1);")]);
    let parts = ["thread (15,0,0): shfl_idx from lane 16, which is not in the mask 0x0000ffff"];
    fails(write("wrong_shuffle_source", 1, 32), &parts);
    let at = line("shfl_xor(1.0f, 1, mask)");
    fails(write("wrong_divergent_mask", 1, 32), &["shfl_xor", "exited", &at]);
    fails(write("wrong_own_lane", 1, 32), &["mask 0x7fffffff", "wrong.cu:"]);
}

#[test]
fn unwritten_shared_memory_is_found() {
    let at = line(
        "y[threadIdx.x] = tile[threadIdx.x];\n}\n\nextern \"C\" __global__ void __launch_bounds__(128) wrong_early",
    );
    fails(
        write("wrong_unwritten_shared", 1, 128),
        &["load of shared byte", "that nobody wrote", &at],
    );
}

#[test]
fn divergent_barriers_are_found() {
    let parts = [
        "divergent synchronisation: threads 0-99 wait at __syncthreads (wrong.cu:",
        "threads 100-127 have exited",
    ];
    fails(write("wrong_early_exit", 1, 128), &parts);
    let parts = ["arrives at __syncthreads while thread", "waits at another (wrong.cu:"];
    fails(write("wrong_divergent_barrier", 1, 128), &parts);
}

#[test]
fn races_in_global_memory_are_found() {
    let at = line("y[0] = float(blockIdx.x)");
    let parts = ["store of global memory at", "stored: race between blocks", &at];
    fails(write("wrong_blocks_store_one_word", 4, 32), &parts);
    fails(write("wrong_blocks_load_after_store", 2, 32), &["race between blocks", "wrong.cu:"]);
    let parts =
        ["of this block stored with no barrier between", &line("y[threadIdx.x / 2] = 1.0f")];
    fails(write("wrong_threads_store_one_word", 1, 64), &parts);

    // Without the fence behind the stores, and without the one before the loads.
    for name in ["wrong_last_block_without_fence", "wrong_last_block_without_second_fence"] {
        let last_block = |gpu: &Host| {
            let (partial, count, y) =
                (Buffer::new(gpu, 1024), Buffer::of(gpu, &[0u32]), Buffer::new(gpu, 256));
            let launch = Launch::new(name).grid(4, 1, 1).block(64, 1, 1);
            launch.arg(&partial).arg(&count).arg(&y).run(gpu)
        };
        fails(last_block, &["load of global memory", "race between blocks", "wrong.cu:"]);
    }
    let parts = ["of global memory", "stored: race between blocks", "wrong.cu:"];
    fails(write("wrong_plain_and_atomic", 2, 1), &parts);
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let gpu = Host::new(HostOptions::default()).unwrap();
    let y = Buffer::new(&gpu, 1024);
    let refused = |launch: Launch, part: &str| {
        let text = launch.run(&gpu).unwrap_err().to_string();
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    };
    let store = || Launch::new("wrong_global_store").arg(&y);
    refused(store().arg(&1i64), "arguments are `pl`, the kernel's parameters are `pi`");
    refused(store(), "arguments are `p`, the kernel's parameters are `pi`");
    refused(
        store().arg(&1).block(257, 1, 1),
        "a block of 257 threads; __launch_bounds__ allows 1 to 256",
    );
    refused(store().arg(&1).grid(0, 1, 1), "a grid of 0 x 1 x 1 blocks");
    refused(store().arg(&1).grid(1, 65_536, 1), "a grid of 1 x 65536 x 1 blocks");
    refused(store().arg(&1).grid(1, 1, 65_536), "a grid of 1 x 1 x 65536 blocks");
    refused(store().arg(&1).grid(1 << 31, 1, 1), "a grid of 2147483648 x 1 x 1 blocks");
    refused(store().arg(&1).block(1, 1, 65), "a block of depth 65, the limit is 64");
    refused(
        store().arg(&1).shared(1 << 20),
        "1048576 bytes of dynamic shared memory and 0 of static, the limit is 232448 together",
    );
    refused(Launch::new("no_such_kernel"), "no such entry point");
}

#[test]
fn launches_that_the_machine_code_cannot_take_are_refused() {
    let gpu = Host::new(HostOptions::default()).unwrap();
    let y = Buffer::new(&gpu, 4 * 1024);
    let run = |name, threads, shared| {
        let launch = Launch::new(name).block(threads, 1, 1).shared(shared).arg(&y);
        launch.run(&gpu).map_err(|error| error.to_string())
    };
    let refused = |(name, threads, shared), part: &str| {
        let text: String = run(name, threads, shared).unwrap_err();
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    };
    // 66 registers a thread are 2112 a warp, rounded up to 2304: 28 warps fit into 65,536, 30 do not.
    run("wrong_many_registers", 896, 0).unwrap();
    let many = "960 threads of 66 registers are 73728 registers a block, the limit is 65536";
    refused(("wrong_many_registers", 960, 0), many);
    refused(("wrong_many_registers", 1025, 0), "__launch_bounds__ allows 1 to 1024");
    refused(("wrong_unlisted", 32, 0), "docs/kernels.txt has no line for it");

    // What the kernel declares and what the launch adds are 227 KiB together.
    run("wrong_static_shared", 32, 232_448 - 40_960).unwrap();
    let much = "191489 bytes of dynamic shared memory and 40960 of static, the limit is 232448";
    refused(("wrong_static_shared", 32, 232_449 - 40_960), much);
    let stale = "128 bytes of static shared memory, docs/kernels.txt says 16";
    refused(("wrong_stale_table", 32, 0), stale);

    let words = (0..512).fold(Launch::new("wrong_many_parameters"), |l, _| l.arg(&0u64));
    let text = words.arg(&0).block(32, 1, 1).run(&gpu).unwrap_err().to_string();
    assert!(text.contains("4100 bytes of parameters, the limit is 4096"), "{text}");
}

#[test]
fn an_endless_loop_ends() {
    for schedule in [Schedule::Fifo, Schedule::Lifo] {
        let options = HostOptions { schedule, budget: 100_000, ..HostOptions::default() };
        let gpu = Host::new(options).unwrap();
        let flag = Buffer::of(&gpu, &[0u32]);
        let text = Launch::new("wrong_endless_loop").block(32, 1, 1).arg(&flag).run(&gpu);
        let text = text.unwrap_err().to_string();
        assert!(
            text.contains("more than 100000 loads, stores and meetings in one block"),
            "{text}"
        );
        assert!(text.contains(&line("while (*p == 0)")), "{text}");
    }
}

#[test]
fn a_full_stack_is_an_error() {
    for _ in 0..3 {
        fails(with_int("wrong_stack_overflow", 7), &["stack overflow (wrong.cu:"]);
    }
}

#[test]
fn copies_outside_allocations_are_refused() {
    let gpu = Host::new(HostOptions::default()).unwrap();
    let y = Buffer::new(&gpu, 100);
    let text = gpu.upload(y.ptr, &[0; 101]).unwrap_err().to_string();
    assert!(text.contains("upload of 101 bytes") && text.contains("outside"), "{text}");
    assert!(gpu.download(y.ptr + 1, &mut [0; 100]).is_err());
    assert!(gpu.zero(y.ptr - 1, 1).is_err());
    assert!(gpu.copy(y.ptr, y.ptr + 50, 51).is_err());
    assert!(gpu.upload(y.ptr, &[0; 100]).is_ok());
}
