//! Tensors: a shape, and elements on one device, contiguous and row-major. Start with [`Tensor::from_vec`].
//!
//! Activations are `[N, H, W, C]` and filters `[K, R, S, C]` everywhere in this crate. [`nchw_to_nhwc`] and [`nhwc_to_nchw`]
//! convert from and to PyTorch's orders `[N, C, H, W]` and `[O, I, H, W]`.

use crate::device::{Arg, Device, Gpu, KernelArg, host_memory};
use crate::dtype::{DType, Element};
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The identity of a tensor, by which a tape knows it. Clones of a tensor share the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(u64);

impl TensorId {
    fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A tensor. Clones share the elements; the first write to a clone copies them.
#[derive(Clone)]
pub struct Tensor {
    id: TensorId,
    shape: Vec<usize>,
    dtype: DType,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Cpu(Arc<CpuBuffer>),
    Gpu(Arc<GpuBuffer>),
}

/// Host elements by type, so that slices need no casts of alignment.
#[derive(Clone)]
enum CpuBuffer {
    F32(Vec<f32>),
    Bf16(Vec<half::bf16>),
    U8(Vec<u8>),
    I32(Vec<i32>),
}

impl CpuBuffer {
    /// `len` elements; what they hold is undefined.
    fn undefined(dtype: DType, len: usize) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Self::F32(host_memory::take(len)?),
            DType::Bf16 => Self::Bf16(host_memory::zeros(len)?),
            DType::U8 => Self::U8(host_memory::zeros(len)?),
            DType::I32 => Self::I32(host_memory::zeros(len)?),
        })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(v) => bytemuck::cast_slice(v),
            Self::Bf16(v) => bytemuck::cast_slice(v),
            Self::U8(v) => v,
            Self::I32(v) => bytemuck::cast_slice(v),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(v) => bytemuck::cast_slice_mut(v),
            Self::Bf16(v) => bytemuck::cast_slice_mut(v),
            Self::U8(v) => v,
            Self::I32(v) => bytemuck::cast_slice_mut(v),
        }
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if let Self::F32(elements) = self {
            host_memory::give(std::mem::take(elements));
        }
    }
}

/// Device memory that is given back when the last clone goes.
struct GpuBuffer {
    gpu: Arc<dyn Gpu>,
    ptr: u64,
    bytes: usize,
}

impl GpuBuffer {
    fn new(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<Self> {
        // An empty tensor still has an address of its own.
        let ptr = gpu.alloc(bytes.max(1))?;
        Ok(Self { gpu: gpu.clone(), ptr, bytes })
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        self.gpu.free(self.ptr);
    }
}

/// Where an operation on a tensor runs: by Rust code on the host, or by kernels on a GPU.
pub enum On<'a> {
    /// On the host.
    Cpu,
    /// On this GPU.
    Gpu(&'a dyn Gpu),
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, dtype, device)?;
        match &mut tensor.storage {
            Storage::Cpu(buffer) => Arc::make_mut(buffer).bytes_mut().fill(0),
            Storage::Gpu(buffer) if buffer.bytes > 0 => {
                buffer.gpu.zero(buffer.ptr, buffer.bytes)?
            }
            Storage::Gpu(_) => {}
        }
        Ok(tensor)
    }

    /// A tensor whose elements are undefined until the caller writes them.
    pub fn empty(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let len = shape.iter().product::<usize>();
        let storage = match device {
            Device::Cpu => Storage::Cpu(Arc::new(CpuBuffer::undefined(dtype, len)?)),
            Device::Gpu(gpu) => Storage::Gpu(Arc::new(GpuBuffer::new(gpu, len * dtype.size())?)),
        };
        Ok(Self { id: TensorId::fresh(), shape: shape.to_vec(), dtype, storage })
    }

    /// A tensor as [`empty`](Self::empty) makes it, on the device of `self`.
    pub fn empty_like(&self, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::empty(shape, dtype, &self.device())
    }

    /// A tensor on `device` with the elements of `data`, in row-major order.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where the shape does not have as many elements as `data`.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[usize], device: &Device) -> Result<Self> {
        let len = shape.iter().product::<usize>();
        if len != data.len() {
            return Err(Error::shape(
                "tensor",
                "shape",
                format!("of {} elements", data.len()),
                shape,
            ));
        }
        let buffer = cpu_buffer(data);
        let storage = match device {
            Device::Cpu => Storage::Cpu(Arc::new(buffer)),
            Device::Gpu(gpu) => {
                let memory = GpuBuffer::new(gpu, len * T::DTYPE.size())?;
                if memory.bytes > 0 {
                    gpu.upload(memory.ptr, buffer.bytes())?;
                }
                Storage::Gpu(Arc::new(memory))
            }
        };
        Ok(Self { id: TensorId::fresh(), shape: shape.to_vec(), dtype: T::DTYPE, storage })
    }

    /// The elements, copied to the host.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where the tensor holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype("to_vec", T::DTYPE)?;
        let mut out: Vec<T> = host_memory::zeros(self.len())?;
        match &self.storage {
            Storage::Cpu(buffer) => {
                bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(buffer.bytes());
            }
            Storage::Gpu(buffer) if buffer.bytes > 0 => {
                buffer.gpu.download(buffer.ptr, bytemuck::cast_slice_mut(&mut out))?;
            }
            Storage::Gpu(_) => {}
        }
        Ok(out)
    }

    /// The same elements on `device`. A tensor that is on `device` already is not copied.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        match self.dtype {
            DType::F32 => Self::from_vec(self.to_vec::<f32>()?, &self.shape, device),
            DType::Bf16 => Self::from_vec(self.to_vec::<half::bf16>()?, &self.shape, device),
            DType::U8 => Self::from_vec(self.to_vec::<u8>()?, &self.shape, device),
            DType::I32 => Self::from_vec(self.to_vec::<i32>()?, &self.shape, device),
        }
    }

    /// The same elements in another shape, as a tensor with an identity of its own.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where the shape has another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape(
                "reshape",
                "x",
                format!("viewable as {shape:?}"),
                &self.shape,
            ));
        }
        Ok(Self { id: TensorId::fresh(), shape: shape.to_vec(), ..self.clone() })
    }

    /// The same elements as a tensor with an identity of its own: no gradient flows from it to `self`.
    pub fn detach(&self) -> Self {
        Self { id: TensorId::fresh(), ..self.clone() }
    }

    /// The identity by which a tape knows the tensor.
    pub fn id(&self) -> TensorId {
        self.id
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape of an activation `[N, H, W, C]` or a filter `[K, R, S, C]`.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where the tensor does not have four dimensions; the error names the operation `op`
    /// and its operand `what`.
    pub fn dims4(&self, op: &'static str, what: &'static str) -> Result<[usize; 4]> {
        <[usize; 4]>::try_from(self.shape.as_slice())
            .map_err(|_| Error::shape(op, what, "of 4 dimensions", &self.shape))
    }

    /// The shape of a matrix. Errors as [`Self::dims4`].
    pub fn dims2(&self, op: &'static str, what: &'static str) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(self.shape.as_slice())
            .map_err(|_| Error::shape(op, what, "of 2 dimensions", &self.shape))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that holds the elements.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Gpu(buffer) => Device::Gpu(buffer.gpu.clone()),
        }
    }

    /// Where an operation on the tensor runs.
    pub fn on(&self) -> On<'_> {
        match &self.storage {
            Storage::Cpu(_) => On::Cpu,
            Storage::Gpu(buffer) => On::Gpu(buffer.gpu.as_ref()),
        }
    }

    /// The elements of a tensor on the CPU; [`Self::to_vec`] reads those of any device.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where the elements are of another type, [`crate::ErrorKind::Device`] where they are
    /// not on the CPU.
    pub fn cpu<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype("cpu", T::DTYPE)?;
        match &self.storage {
            Storage::Cpu(buffer) => Ok(bytemuck::cast_slice(buffer.bytes())),
            Storage::Gpu(buffer) => {
                Err(Error::device(buffer.gpu.name(), "operands must be on cpu"))
            }
        }
    }

    /// The elements of a tensor on the CPU, to be written. Elements that clones share are copied first. Errors as [`Self::cpu`].
    pub fn cpu_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype("cpu_mut", T::DTYPE)?;
        match &mut self.storage {
            Storage::Cpu(buffer) => Ok(bytemuck::cast_slice_mut(Arc::make_mut(buffer).bytes_mut())),
            Storage::Gpu(buffer) => {
                Err(Error::device(buffer.gpu.name(), "operands must be on cpu"))
            }
        }
    }

    /// Copies the elements of a tensor on a GPU where clones share them, so that a kernel may write to them in place.
    pub fn make_unique(&mut self) -> Result<()> {
        if let Storage::Gpu(buffer) = &mut self.storage
            && Arc::get_mut(buffer).is_none()
        {
            let own = GpuBuffer::new(&buffer.gpu, buffer.bytes)?;
            if own.bytes > 0 {
                own.gpu.copy(own.ptr, buffer.ptr, own.bytes)?;
            }
            *buffer = Arc::new(own);
        }
        Ok(())
    }

    /// Overwrites the first elements of a tensor on a GPU by those of `front`, in place: a recorded graph reads them next.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where `front` is longer or of another type, [`crate::ErrorKind::Device`] where the two
    /// are not on the same GPU.
    pub fn copy_front(&self, front: &Self) -> Result<()> {
        front.expect_dtype("copy_front", self.dtype)?;
        match (&self.storage, &front.storage) {
            (Storage::Gpu(to), Storage::Gpu(from)) if self.device() == front.device() => {
                if from.bytes > to.bytes {
                    let want = format!("at most {:?}", self.shape);
                    return Err(Error::shape("copy_front", "front", want, &front.shape));
                }
                if from.bytes > 0 { to.gpu.copy(to.ptr, from.ptr, from.bytes) } else { Ok(()) }
            }
            _ => Err(Error::device(front.device().to_string(), "copy_front: must be on one GPU")),
        }
    }

    /// Replaces the elements and keeps the identity, as for a parameter that is loaded.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where shapes or types differ.
    pub fn assign(&mut self, value: &Self) -> Result<()> {
        if value.shape != self.shape || value.dtype != self.dtype {
            return Err(Error::shape("assign", "value", format!("{:?}", self.shape), &value.shape));
        }
        self.storage = value.to_device(&self.device())?.storage;
        Ok(())
    }

    /// Errors: [`crate::ErrorKind::Shape`] where the elements are not of the type `dtype`.
    pub fn expect_dtype(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(Error::shape(op, "dtype", format!("{dtype:?}, not {:?}", self.dtype), &self.shape))
    }

    /// Errors: [`crate::ErrorKind::Shape`] where the shape is not `want`.
    pub fn expect_shape(&self, op: &'static str, what: &'static str, want: &[usize]) -> Result<()> {
        if self.shape == want {
            return Ok(());
        }
        Err(Error::shape(op, what, format!("{want:?}"), &self.shape))
    }
}

impl KernelArg for Tensor {
    /// The address of the elements on a GPU; 0 for a tensor on the CPU, which no kernel can read.
    fn arg(&self) -> Arg {
        match &self.storage {
            Storage::Gpu(buffer) => Arg::Ptr(buffer.ptr),
            Storage::Cpu(_) => Arg::Ptr(0),
        }
    }
}

impl KernelArg for Option<&Tensor> {
    /// An optional operand: a null pointer where there is none.
    fn arg(&self) -> Arg {
        self.map_or(Arg::Ptr(0), KernelArg::arg)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?}, {})", self.shape, self.dtype, self.device())
    }
}

fn cpu_buffer<T: Element>(data: Vec<T>) -> CpuBuffer {
    match T::DTYPE {
        DType::F32 => CpuBuffer::F32(bytemuck::allocation::cast_vec(data)),
        DType::Bf16 => CpuBuffer::Bf16(bytemuck::allocation::cast_vec(data)),
        DType::U8 => CpuBuffer::U8(bytemuck::allocation::cast_vec(data)),
        DType::I32 => CpuBuffer::I32(bytemuck::allocation::cast_vec(data)),
    }
}

/// Elements of the order `[N, C, H, W]` in the order `[N, H, W, C]`; the shape is `[n, c, h, w]`.
pub fn nchw_to_nhwc<T: Element>(data: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    permute(data, n, c, h * w)
}

/// Elements of the order `[N, H, W, C]` in the order `[N, C, H, W]`; the shape is `[n, c, h, w]`.
pub fn nhwc_to_nchw<T: Element>(data: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    permute(data, n, h * w, c)
}

/// Transposes each of `n` row-major matrices of `rows` × `columns`.
fn permute<T: Element>(data: &[T], n: usize, rows: usize, columns: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for matrix in data.chunks_exact((rows * columns).max(1)).take(n) {
        for column in 0..columns {
            out.extend((0..rows).map(|row| matrix[row * columns + column]));
        }
    }
    out
}
