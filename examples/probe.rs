use rewire::{infer::Plan, *};
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let batch: usize = args[2].parse()?;
    let arch = nn::ArchSpec::parse(&args[1])?.resolve();
    let model = models::initialised(arch, Seed(1), &Device::Cpu)?;
    let len = batch * 32 * 32 * 3;
    let x = Tensor::from_vec((0..len).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect(), &[batch, 32, 32, 3], &Device::Cpu)?;
    let mut plan = Plan::build(&model, batch, Mode::F32)?;
    let y = plan.run(&x)?.to_vec::<f32>()?;
    let mut tape = Tape::new(Mode::F32);
    let want = model.forward_eval(&mut tape, &x, &Default::default())?.to_vec::<f32>()?;
    let e: f32 = y.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    let n: f32 = want.iter().map(|b| b.powi(2)).sum();
    println!("error {:e}", (e / n).sqrt());
    let layers = plan.profile(&x, args[3].parse()?)?;
    let macs = |layer: &nn::Layer| (layer.weights() * layer.positions) as f64 * batch as f64;
    let all = model.layers()?;
    let mut total = 0.0;
    for (name, ms) in &layers {
        let found = all.iter().find(|layer| layer.name == *name);
        let rate = found.map_or(0.0, |layer| macs(layer) / ms / 1e6);
        println!("{name:<24}{ms:9.3} ms {rate:8.1} GMAC/s");
        total += ms;
    }
    println!("total {total:.3}");
    Ok(())
}
