//! The device `cuda-host`: its checks find kernels that are wrong on purpose, and its twins equal the instructions.

use rewire::device::{Arg, Gpu, KernelArg, Launch, host::Host};

/// Device memory that is freed with the value.
struct Buffer<'a> {
    gpu: &'a Host,
    ptr: u64,
    len: usize,
}

impl<'a> Buffer<'a> {
    fn new(gpu: &'a Host, bytes: usize) -> Self {
        Self { gpu, ptr: gpu.alloc(bytes).unwrap(), len: bytes }
    }

    fn of<T: bytemuck::NoUninit>(gpu: &'a Host, values: &[T]) -> Self {
        let buffer = Self::new(gpu, size_of_val(values));
        gpu.upload(buffer.ptr, bytemuck::cast_slice(values)).unwrap();
        buffer
    }

    fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self) -> Vec<T> {
        let mut out = vec![T::zeroed(); self.len / size_of::<T>()];
        self.gpu.download(self.ptr, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.gpu.free(self.ptr);
    }
}

impl KernelArg for Buffer<'_> {
    fn arg(&self) -> Arg {
        Arg::Ptr(self.ptr)
    }
}

#[test]
fn relu_runs() {
    let gpu = &*Host::shared().unwrap();
    let x: Vec<f32> = (0..1000).map(|i| i as f32 - 500.0).collect();
    let (dx, dy) = (Buffer::of(gpu, &x), Buffer::new(gpu, 4000));
    Launch::new("relu_forward_f32")
        .elements(1000)
        .arg(&dx)
        .arg(&dy)
        .arg(&1000i64)
        .run(gpu)
        .unwrap();
    assert_eq!(dy.get::<f32>(), x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
    let error =
        Launch::new("relu_forward_f32").elements(1000).arg(&dx).arg(&dy).arg(&1001i64).run(gpu);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("block (3,0,0) thread (232,0,0): load of 4 bytes"), "{text}");
    assert!(text.contains("(elementwise.cu:"), "{text}");
}
