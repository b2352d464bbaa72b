//! Files of networks: what is written, what is read, what is refused.

use crate::fixture;
use rewire::io::{Hints, load_model, load_tensors, model_bytes, save_model, save_tensors};
use rewire::nn::{ArchSpec, Model, Normalization, Weights};
use rewire::{DType, Device, Mode, Tape, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn logits(model: &Model) -> Vec<f32> {
    let x = fixture::images(2, model.arch().in_channels, model.arch().size, &CPU);
    let weights = Weights::default();
    model.forward_eval(&mut Tape::new(Mode::F32), &x, &weights).unwrap().to_vec().unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn with_arch(text: &str) -> Hints {
    Hints { arch: Some(ArchSpec::parse(text).unwrap()), ..Hints::default() }
}

/// A file as PyTorch writes it: the same tensors without metadata, and the batches' count.
fn as_from_pytorch(
    model: &Model,
    edit: impl Fn(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>),
) -> Vec<u8> {
    let bytes = model_bytes(Path::new("model"), model).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = stored
        .iter()
        .map(|(name, view)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        })
        .collect();
    let count = (Dtype::I64, vec![], 7i64.to_le_bytes().to_vec());
    tensors.insert("bn1.num_batches_tracked".to_owned(), count);
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()
}

fn refused(path: &Path, hints: &Hints) -> String {
    let message = load_model(path, hints, &CPU).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_saved_network_is_the_same_network() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    for text in [
        "vgg16:width=0.0625,in_channels=1,classes=7",
        "resnet18:width=0.0625,size=16",
        "resnet50:width=0.03",
    ] {
        let mut arch = ArchSpec::parse(text).unwrap().resolve();
        if arch.in_channels == 3 {
            arch.normalize = Some(Normalization { mean: vec![0.1, 0.2, 0.3], std: vec![0.25; 3] });
        }
        let model = fixture::network(arch, &CPU);
        save_model(&path, &model).unwrap();
        let read = load_model(&path, &Hints::default(), &CPU).unwrap();
        assert_eq!(read.arch(), model.arch());
        assert_eq!(logits(&read), logits(&model), "{text}");
        let again = model_bytes(&path, &read).unwrap();
        assert_eq!(again, std::fs::read(&path).unwrap(), "{text}: the bytes differ");
    }
}

#[test]
fn filters_are_stored_as_oihw_and_the_metadata_has_sorted_keys() {
    let model = fixture::network_of("resnet18:width=0.0625", &CPU);
    let bytes = model_bytes(Path::new("model"), &model).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["rewire"]);
    let keys: Vec<&str> = metadata["rewire"]
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|k| k.chars().all(char::is_alphanumeric))
        .collect();
    assert_eq!(keys[..2], ["arch", "resnet18"]);
    let json: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&metadata["rewire"]).unwrap();
    let positions: Vec<usize> =
        json.keys().map(|key| metadata["rewire"].find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(positions.is_sorted(), "{}", metadata["rewire"]);
    assert_eq!(json["classes"], 10);
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let filter = stored.tensor("layer2.0.conv1.weight").unwrap();
    assert_eq!(filter.shape(), [8, 4, 3, 3]);
    let krsc = model.param("layer2.0.conv1.weight").unwrap().to_vec::<f32>().unwrap();
    let oihw: Vec<f32> = filter.data().chunks(4).map(bytemuck::pod_read_unaligned).collect();
    // w[k=1, c=2, r=0, s=1]
    assert_eq!(oihw[((4 + 2) * 3) * 3 + 1], krsc[(9 + 1) * 4 + 2]);
}

#[test]
fn a_state_dict_of_pytorch_is_read_with_an_architecture() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let model = fixture::network_of("resnet18:width=0.0625,in_channels=2,classes=5", &CPU);
    std::fs::write(&path, as_from_pytorch(&model, |_| {})).unwrap();
    // Channels and classes come from the shapes.
    let read = load_model(&path, &with_arch("resnet18:width=0.0625"), &CPU).unwrap();
    assert_eq!(read.arch(), model.arch());
    assert_eq!(logits(&read), logits(&model));
    let message = refused(&path, &Hints::default());
    assert!(message.contains("--arch"), "{message}");
    let normalize = Some(Some(Normalization { mean: vec![0.5; 2], std: vec![0.5; 2] }));
    let hints = Hints { normalize, ..with_arch("resnet18:width=0.0625") };
    assert_ne!(logits(&load_model(&path, &hints, &CPU).unwrap()), logits(&model));
    // Half precision is widened.
    let halved = as_from_pytorch(&model, |tensors| {
        let (dtype, _, data) = tensors.get_mut("fc.bias").unwrap();
        let floats = data.chunks(4).map(bytemuck::pod_read_unaligned::<f32>);
        let halves: Vec<u8> = floats.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect();
        (*dtype, *data) = (Dtype::F16, halves);
    });
    std::fs::write(&path, halved).unwrap();
    let read = load_model(&path, &with_arch("resnet18:width=0.0625"), &CPU).unwrap();
    let error =
        logits(&read).iter().zip(logits(&model)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error > 0.0 && error < 1e-3, "{error}");
}

#[test]
fn all_keys_that_do_not_fit_are_named_at_once() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let model = fixture::network_of("resnet18:width=0.0625", &CPU);
    let bytes = as_from_pytorch(&model, |tensors| {
        tensors.remove("layer1.0.bn1.weight");
        tensors.remove("layer3.1.conv2.weight");
        tensors.insert("head.weight".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
        tensors.insert("bn1.bias".to_owned(), (Dtype::F32, vec![5], vec![0; 20]));
    });
    std::fs::write(&path, bytes).unwrap();
    let message = refused(&path, &with_arch("resnet18:width=0.0625"));
    for word in
        ["layer1.0.bn1.weight", "layer3.1.conv2.weight", "head.weight", "bn1.bias [5]", "[4]"]
    {
        assert!(message.contains(word), "{word} is not in: {message}");
    }
}

#[test]
fn hints_that_contradict_the_file_are_refused() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    save_model(&path, &fixture::network_of("resnet18:width=0.0625", &CPU)).unwrap();
    assert!(load_model(&path, &with_arch("resnet18"), &CPU).is_ok());
    for text in ["vgg16", "resnet18:width=0.5", "resnet18:classes=7"] {
        assert!(refused(&path, &with_arch(text)).contains("--arch"), "{text}");
    }
    let mean_std = Normalization { mean: vec![0.5; 3], std: vec![0.5; 3] };
    let hints = Hints { normalize: Some(Some(mean_std)), ..Hints::default() };
    assert!(refused(&path, &hints).contains("--normalize"));
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let model = fixture::network_of("resnet18:width=0.0625", &CPU);
    for (name, value) in
        [("fc.weight", f32::NAN), ("bn1.running_mean", f32::INFINITY), ("bn1.running_var", -1.0)]
    {
        let bytes = as_from_pytorch(&model, |tensors| {
            tensors.get_mut(name).unwrap().2[4..8].copy_from_slice(&value.to_le_bytes());
        });
        std::fs::write(&path, bytes).unwrap();
        assert!(refused(&path, &with_arch("resnet18:width=0.0625")).contains(name));
    }
}

#[test]
fn broken_files_are_refused_without_a_panic() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let whole = model_bytes(&path, &fixture::network_of("resnet18:width=0.03", &CPU)).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for len in [0, 3, 8, 9, 100, header, header + 1, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(refused(&path, &Hints::default()).contains("safetensors"));
    }
    for length in [0, 1, u64::MAX, whole.len() as u64, 99_999_999] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        refused(&path, &Hints::default());
    }
    // Bytes all over the header, and metadata that lie.
    for i in (8..header).step_by(13) {
        let mut bytes = whole.clone();
        bytes[i] ^= 0x15;
        std::fs::write(&path, &bytes).unwrap();
        let _ = load_model(&path, &Hints::default(), &CPU);
    }
    let text = String::from_utf8(whole[8..header].to_vec()).unwrap();
    for (from, to) in [
        (r#"\"classes\":10"#, r#"\"classes\":11"#),
        (r#"\"classes\":10"#, r#"\"classes\":-1"#),
        (r#"\"width\":0.03"#, r#"\"width\":1e99"#),
        (r#"\"size\":32"#, r#"\"size\":99999"#),
        (r#"\"arch\":\"resnet18\""#, r#"\"arch\":\"resnet19\""#),
        (r#"\"in_channels\":3"#, r#"\"in_channels\":2"#),
        (r#"\"normalize\":null"#, r#"\"normalize\":{\"mean\":[0,0,0],\"std\":[0,1,1]}"#),
        (r#"\"in_channels\""#, r#"\"in_chanels\""#),
    ] {
        let edited = text.replace(from, to);
        assert_ne!(edited, text, "{from}");
        let mut bytes = (edited.len() as u64).to_le_bytes().to_vec();
        bytes.extend(edited.as_bytes());
        bytes.extend(&whole[header..]);
        std::fs::write(&path, &bytes).unwrap();
        refused(&path, &Hints::default());
    }
    refused(Path::new("/nowhere/model.safetensors"), &Hints::default());
    refused(folder.path(), &Hints::default());
}

#[test]
fn pickles_are_refused_with_the_line_that_converts_them() {
    let folder = folder();
    for (name, content) in
        [("model.pt", &b"x"[..]), ("model.bin", b"PK\x03\x04..."), ("model", b"\x80\x02}q")]
    {
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let message = refused(&path, &Hints::default());
        assert!(message.contains("save_file") && message.contains("python"), "{message}");
        let files =
            format!("'{}' '{}'", path.display(), path.with_extension("safetensors").display());
        assert!(message.ends_with(&files), "{message}");
    }
}

#[test]
fn tensors_of_every_type_come_back() {
    let folder = folder();
    let path = folder.path().join("state.safetensors");
    let float = Tensor::from_vec((0..24).map(|v| v as f32).collect(), &[2, 2, 2, 3], &CPU).unwrap();
    let mask = Tensor::from_vec((0..24).map(|v| v % 2).collect::<Vec<u8>>(), &[2, 2, 2, 3], &CPU);
    let index = Tensor::from_vec(vec![3i32, -1], &[2], &CPU).unwrap();
    let tensors: BTreeMap<String, Tensor> =
        [("w", float), ("m", mask.unwrap()), ("i", index)].map(|(n, t)| (n.to_owned(), t)).into();
    save_tensors(&path, &tensors, "{\"epoch\":3}").unwrap();
    let (read, json) = load_tensors(&path, &CPU).unwrap();
    assert_eq!(json.as_deref(), Some("{\"epoch\":3}"));
    for (name, tensor) in &tensors {
        assert_eq!(read[name].shape(), tensor.shape());
        assert_eq!(read[name].dtype(), tensor.dtype());
    }
    assert_eq!(read["w"].to_vec::<f32>().unwrap(), tensors["w"].to_vec::<f32>().unwrap());
    assert_eq!(read["m"].dtype(), DType::U8);
    assert_eq!(read["m"].to_vec::<u8>().unwrap(), tensors["m"].to_vec::<u8>().unwrap());
    assert!(Normalization::parse("none").unwrap().is_none());
}
