use rewire::attack::Network;
use rewire::data::{Dataset, Loader};
use rewire::nn::{ArchSpec, Execution};
use rewire::prune::{PruneSettings, Pruner};
use rewire::{Device, Mode, Seed, Tape, Tensor, models};
#[test]
fn zz() {
    let host = Device::new("cuda-host").unwrap();
    for (arch, dens) in [("vgg16", "0.1"), ("vgg16", "1.0"), ("resnet18", "0.1"), ("resnet18", "1.0")] {
        let spec = format!("{arch}:width=0.0625,in_channels=1,classes=4");
        let arch = ArchSpec::parse(&spec).unwrap().resolve();
        let mut model = models::initialised(arch, Seed(1), &Device::Cpu).unwrap();
        let st: PruneSettings = toml::from_str(&format!("method = 'dnr'\ndensity = {dens}")).unwrap();
        let pruner = Pruner::new(&st, &model, Seed(9)).unwrap();
        pruner.apply(&mut model).unwrap();
        let data = Dataset::load("synthetic:classes=4,size=32,channels=1,train=24,test=8").unwrap();
        let loader = Loader::new(data.train().unwrap(), 24).unwrap();
        let batch = loader.epoch(0).batch(0).unwrap();
        let how = Execution::default();
        let x = Tensor::from_vec(batch.images.clone(), &[24, 32, 32, 1], &Device::Cpu).unwrap();
        let xh = x.to_device(&host).unwrap();
        let labels = Tensor::from_vec(batch.labels.clone(), &[24], &Device::Cpu).unwrap();
        let lh = labels.to_device(&host).unwrap();
        model.forward_train(&mut Tape::new(Mode::F32), &x, &how).unwrap();
        let mh = model.to_device(&host).unwrap();
        let g = Network { model: &model, how: &how, mode: Mode::F32 }.input_gradient(&x, &labels).unwrap().to_vec::<f32>().unwrap();
        let h = Network { model: &mh, how: &how, mode: Mode::F32 }.input_gradient(&xh, &lh).unwrap().to_vec::<f32>().unwrap();
        let norm = (g.iter().map(|g| (*g as f64).powi(2)).sum::<f64>() / g.len() as f64).sqrt();
        let err = (g.iter().zip(&h).map(|(g, h)| (*g as f64 - *h as f64).powi(2)).sum::<f64>() / g.len() as f64).sqrt();
        let flips: Vec<usize> = (0..g.len()).filter(|&i| (g[i] > 0.0) != (h[i] > 0.0) || (g[i] < 0.0) != (h[i] < 0.0)).collect();
        println!("{spec} {dens} rms {norm:e} err {:e} flips {} zeros {} {}", err / norm, flips.len(), g.iter().filter(|g| **g == 0.0).count(), h.iter().filter(|g| **g == 0.0).count());
        for &i in flips.iter().take(6) { println!("   {i} img {} : {:e} {:e}", i / 1024, g[i], h[i]); }
        // per image error
        let worst: Vec<String> = (0..24).map(|n| { let r = n*1024..(n+1)*1024; let e: f64 = g[r.clone()].iter().zip(&h[r.clone()]).map(|(a,b)| (*a as f64-*b as f64).powi(2)).sum::<f64>().sqrt(); let q: f64 = g[r].iter().map(|a| (*a as f64).powi(2)).sum::<f64>().sqrt(); format!("{:.0e}", e/q)}).collect();
        println!("   {worst:?}");
        let lg = Network { model: &model, how: &how, mode: Mode::F32 }.logits(&x).unwrap().to_vec::<f32>().unwrap();
        println!("   logits {:?}", &lg[..8]);
    }
}
#[test]
fn zy() {
    let (model, data) = crate::attack::trained();
    for eps in ["1/255","4/255","16/255","64/255"] { for name in ["fgsm", "pgd"] {
        let a: rewire::attack::AttackSettings = toml::from_str(&format!("attack='{name}'\neps='{eps}'\nsteps=5")).unwrap();
        let o = crate::attack::attacked(&model, &data, &[a.resolved().unwrap()], 40);
        println!("{name} {eps} clean {} robust {}", rewire::attack::Outcome::percent(&o.clean), rewire::attack::Outcome::percent(&o.robust[0]));
    } }
}
