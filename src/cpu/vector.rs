//! The vector operations of the register tiles.

/// Some floats in a register. A trait, so that one loop body serves every instruction set.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// # Safety
    /// The machine has the instructions; so for every function below.
    unsafe fn zero() -> Self;
    /// # Safety
    /// `p` is readable for all lanes.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `p` is readable for the first `count ≤ LANES`; the other lanes are 0.
    unsafe fn load_first(p: *const f32, count: usize) -> Self;
    /// # Safety
    /// `p` is writable for the first `count ≤ LANES`.
    unsafe fn store_first(self, p: *mut f32, count: usize);
    /// # Safety
    /// Needs the instructions only.
    unsafe fn splat(x: f32) -> Self;
    /// `a · b + sum`.
    ///
    /// # Safety
    /// Needs the instructions only.
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self;
    /// # Safety
    /// Needs the instructions only.
    unsafe fn add(a: Self, b: Self) -> Self;
    /// `a > b ? a : b`, so a NaN in `b` stays.
    ///
    /// # Safety
    /// Needs the instructions only.
    unsafe fn larger(a: Self, b: Self) -> Self;
    /// The larger; NaN where either is.
    ///
    /// # Safety
    /// Needs the instructions only.
    unsafe fn max(a: Self, b: Self) -> Self;
    /// `a · b + sum` in the lanes whose bit is set, `sum` in the others.
    ///
    /// # Safety
    /// Needs the instructions only.
    unsafe fn multiply_add_masked(a: Self, b: Self, sum: Self, mask: u32) -> Self;
    /// Asks for the cache line of `p`, which need not be readable.
    #[inline(always)]
    fn prefetch(p: *const f32) {
        let _ = p;
    }
    /// Stores the lanes whose bit is set.
    ///
    /// # Safety
    /// `p` is writable where a bit is set.
    unsafe fn store_masked(self, p: *mut f32, mask: u32);
}

impl Vector for [f32; 8] {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: readable by the caller's word.
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, count: usize) -> Self {
        // SAFETY: only the first `count` are read.
        std::array::from_fn(|i| if i < count { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, count: usize) {
        for (i, x) in self.into_iter().enumerate().take(count) {
            // SAFETY: only the first `count` are written.
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        std::array::from_fn(|i| a[i] * b[i] + sum[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn larger(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| if a[i] > b[i] || a[i].is_nan() { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn multiply_add_masked(a: Self, b: Self, sum: Self, mask: u32) -> Self {
        std::array::from_fn(|i| if mask >> i & 1 != 0 { a[i] * b[i] + sum[i] } else { sum[i] })
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: u32) {
        for (i, x) in self.into_iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0) {
            // SAFETY: only where the bit is set.
            unsafe { *p.add(i) = x };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: a prefetch reads nothing; every x86-64 has it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: readable by the caller's word.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, count: usize) -> Self {
            // SAFETY: masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, p) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, count: usize) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << count) - 1) as u16, self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }
        #[inline(always)]
        unsafe fn add(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn larger(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe {
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
                _mm512_mask_blend_ps(nan, _mm512_max_ps(a, b), a)
            }
        }
        #[inline(always)]
        unsafe fn multiply_add_masked(a: Self, b: Self, sum: Self, mask: u32) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm512_mask3_fmadd_ps(a, b, sum, mask as u16) }
        }
        #[inline(always)]
        unsafe fn store_masked(self, p: *mut f32, mask: u32) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(p, mask as u16, self) }
        }
    }

    /// All ones in the first `count` lanes.
    #[inline(always)]
    unsafe fn mask(count: usize) -> __m256i {
        const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: `count ≤ 8`, so the eight lanes lie in the array.
        unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - count).cast()) }
    }

    /// All ones in the lanes whose bit is set.
    #[inline(always)]
    unsafe fn bits(mask: u32) -> __m256i {
        // SAFETY: the machine has the instructions.
        unsafe {
            let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask as i32), lanes), lanes)
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: readable by the caller's word.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, count: usize) -> Self {
            // SAFETY: masked lanes are not read.
            unsafe { _mm256_maskload_ps(p, mask(count)) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, count: usize) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm256_maskstore_ps(p, mask(count), self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }
        #[inline(always)]
        unsafe fn add(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn larger(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: Self, b: Self) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe {
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
                _mm256_blendv_ps(_mm256_max_ps(a, b), a, nan)
            }
        }
        #[inline(always)]
        unsafe fn multiply_add_masked(a: Self, b: Self, sum: Self, mask: u32) -> Self {
            // SAFETY: the machine has the instructions.
            unsafe {
                let all = _mm256_fmadd_ps(a, b, sum);
                _mm256_blendv_ps(sum, all, _mm256_castsi256_ps(bits(mask)))
            }
        }
        #[inline(always)]
        unsafe fn store_masked(self, p: *mut f32, mask: u32) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm256_maskstore_ps(p, bits(mask), self) }
        }
    }
}
