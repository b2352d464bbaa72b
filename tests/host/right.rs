//! Correct kernels run without an alarm and compute what they should, under both schedules.

use super::{Buffer, both};
use rewire::device::Launch;

#[test]
fn the_last_block_may_read_what_others_published() {
    for gpu in both() {
        let (partial, count) = (Buffer::new(&gpu, 16 * 256), Buffer::of(&gpu, &[0u32]));
        let y = Buffer::new(&gpu, 256);
        for _ in 0..3 {
            let launch = Launch::new("right_last_block").grid(16, 1, 1).block(64, 1, 1);
            launch.arg(&partial).arg(&count).arg(&y).run(&gpu).unwrap();
            let want: Vec<f32> = (0..64).map(|t| 16.0 * t as f32).collect();
            assert_eq!(y.get::<f32>(), want);
            assert_eq!(count.get::<u32>(), [0]);
        }
    }
}

#[test]
fn neighbours_may_own_parts_of_a_word() {
    for gpu in both() {
        let x: Vec<u16> =
            (0..33 * 16).map(|i| half::bf16::from_f32((i % 100) as f32).to_bits()).collect();
        let (dx, y) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 2 * x.len()));
        let launch = Launch::new("right_halves_of_words").grid(16, 1, 1).block(64, 1, 1);
        launch.arg(&dx).arg(&y).run(&gpu).unwrap();
        let twice =
            |&b: &u16| half::bf16::from_f32(2.0 * half::bf16::from_bits(b).to_f32()).to_bits();
        let want: Vec<u16> = x.chunks(33).flat_map(|row| row.iter().rev().map(twice)).collect();
        assert_eq!(y.get::<u16>(), want);

        let bytes = Buffer::of(&gpu, &[7u8; 33 * 16]);
        let launch = Launch::new("right_bytes_in_place").grid(16, 1, 1).block(64, 1, 1);
        launch.arg(&bytes).run(&gpu).unwrap();
        assert_eq!(bytes.get::<u8>(), [8; 33 * 16]);
    }
}

#[test]
fn atomics_do_not_race_with_atomics() {
    for gpu in both() {
        let x: Vec<u8> = (0..10_000u32).map(|i| (i * i % 251) as u8).collect();
        let (dx, bins) = (Buffer::of(&gpu, &x), Buffer::of(&gpu, &[0u32; 256]));
        let launch = Launch::new("right_histogram").grid(20, 1, 1).block(64, 1, 1);
        launch.arg(&dx).arg(&bins).arg(&10_000).run(&gpu).unwrap();
        let mut want = [0u32; 256];
        x.iter().for_each(|&b| want[b as usize] += 1);
        assert_eq!(bins.get::<u32>(), want);
    }
}

#[test]
fn part_of_a_warp_may_meet_alone() {
    for gpu in both() {
        let y = Buffer::new(&gpu, 256);
        Launch::new("right_half_warps").block(64, 1, 1).arg(&y).run(&gpu).unwrap();
        let want = |t: usize| match (t / 32, t % 32 < 16) {
            (w, true) => (0..16).map(|l| (32 * w + l) as f32).sum(),
            (w, false) => (32 * w + 31) as f32,
        };
        assert_eq!(y.get::<f32>(), (0..64).map(want).collect::<Vec<f32>>());

        let y = Buffer::new(&gpu, 4 * 48);
        Launch::new("right_partial_warp").block(48, 1, 1).arg(&y).run(&gpu).unwrap();
        let votes = |first: u32, lanes: u32| {
            (0..lanes)
                .filter(|l| (first + l).is_multiple_of(3))
                .fold(0u32, |votes, l| votes | 1 << l)
        };
        let want = |t: u32| if t < 32 { votes(0, 32) } else { votes(32, 16) };
        assert_eq!(y.get::<u32>(), (0..48).map(want).collect::<Vec<_>>());
    }
}

#[test]
fn syncwarp_orders_the_lanes_of_a_warp() {
    for gpu in both() {
        let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let (dx, y) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 256));
        Launch::new("right_syncwarp").block(64, 1, 1).arg(&dx).arg(&y).run(&gpu).unwrap();
        let want: Vec<f32> = (0..64).map(|t| (t ^ 1) as f32 + 3.0).collect();
        assert_eq!(y.get::<f32>(), want);
    }
}

#[test]
fn copies_land_at_the_matching_wait() {
    for gpu in both() {
        let len = 128 * 3 + 20;
        let x: Vec<f32> = (0..len).map(|i| (i % 17) as f32).collect();
        let (dx, y) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 128));
        let launch = Launch::new("right_double_buffer").block(32, 1, 1);
        launch.arg(&dx).arg(&y).arg(&{ len }).run(&gpu).unwrap();
        let at = |i: usize| x.get(i).copied().unwrap_or(0.0);
        let want = |t: usize| (0..16).map(|k| at(32 * k + (t ^ 5))).sum();
        assert_eq!(y.get::<f32>(), (0..32).map(want).collect::<Vec<f32>>());
    }
}

#[test]
fn constants_of_the_program_may_be_read() {
    for gpu in both() {
        let y = Buffer::new(&gpu, 128);
        Launch::new("right_constant_table").block(32, 1, 1).arg(&y).run(&gpu).unwrap();
        assert_eq!(y.get::<i32>()[..8], [3, 1, 4, 1, 5, 9, 2, 6]);
    }
}
