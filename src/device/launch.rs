//! The description of one kernel launch: name, grid, block, shared memory, typed arguments.

/// A kernel argument with the type that the kernel's parameter must have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// Any pointer to device memory. 0 = null, for kernels that document it.
    Ptr(u64),
    /// `int`.
    I32(i32),
    /// `unsigned`.
    U32(u32),
    /// `long long`.
    I64(i64),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl Arg {
    /// The letter in a kernel's signature: `p i u l m f`.
    pub fn letter(&self) -> char {
        match self {
            Self::Ptr(_) => 'p',
            Self::I32(_) => 'i',
            Self::U32(_) => 'u',
            Self::I64(_) => 'l',
            Self::U64(_) => 'm',
            Self::F32(_) => 'f',
        }
    }

    /// A word whose first 4 or 8 bytes are the value's bytes; the driver gets a pointer to this word.
    pub fn word(&self) -> u64 {
        match *self {
            Self::Ptr(v) | Self::U64(v) => v,
            Self::I64(v) => v as u64,
            Self::I32(v) => u64::from(v as u32),
            Self::U32(v) => u64::from(v),
            Self::F32(v) => u64::from(v.to_bits()),
        }
    }
}

/// A value that [`Launch::arg`] takes.
pub trait KernelArg {
    /// The value as a typed argument.
    fn arg(&self) -> Arg;
}

macro_rules! kernel_arg {
    ($($t:ty => $variant:ident),*) => {$(
        impl KernelArg for $t {
            fn arg(&self) -> Arg {
                Arg::$variant(*self)
            }
        }
    )*};
}
kernel_arg!(i32 => I32, u32 => U32, i64 => I64, u64 => U64, f32 => F32);

/// A kernel launch, described step by step:
/// `Launch::new("relu_forward_f32").elements(len).arg(&y).arg(&x).arg(&(len as i64)).run(gpu)?`.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Entry point, `extern "C" __global__`.
    pub name: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// Arguments in order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch of the entry point `name`, with one block of 256 threads unless the methods below say otherwise.
    pub fn new(name: &'static str) -> Self {
        Self { name, grid: [1; 3], block: [256, 1, 1], shared: 0, args: Vec::new() }
    }

    /// Sets enough blocks of 256 threads for `len` elements, but at most 4096, because kernels loop with the grid's stride.
    pub fn elements(self, len: usize) -> Self {
        let blocks = len.div_ceil(256).clamp(1, 4096) as u32;
        self.grid(blocks, 1, 1).block(256, 1, 1)
    }

    /// Blocks.
    pub fn grid(mut self, x: u32, y: u32, z: u32) -> Self {
        self.grid = [x, y, z];
        self
    }

    /// Threads a block.
    pub fn block(mut self, x: u32, y: u32, z: u32) -> Self {
        self.block = [x, y, z];
        self
    }

    /// Dynamic shared memory in bytes.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Adds the next argument.
    pub fn arg(mut self, value: &impl KernelArg) -> Self {
        self.args.push(value.arg());
        self
    }
}
