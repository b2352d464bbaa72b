use rewire::infer::{Algorithm, Choice, Plan};
use rewire::prune::{Granularity, PruneSettings, Pruner};
use rewire::*;
use std::time::Instant;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let (batch, rounds): (usize, usize) = (args[2].parse()?, args[3].parse()?);
    let density: f64 = args[4].parse()?;
    let arch = nn::ArchSpec::parse(&args[1])?.resolve();
    let mut model = models::initialised(arch, Seed(1), &Device::Cpu)?;
    if density < 1.0 {
        let settings = PruneSettings {
            method: "magnitude".into(),
            granularity: Granularity::Irregular,
            density,
            keys: Default::default(),
        };
        Pruner::new(&settings, &model, Seed(1))?.apply(&mut model)?;
    }
    let len = batch * 32 * 32 * 3;
    let x = Tensor::from_vec(
        (0..len).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect(),
        &[batch, 32, 32, 3],
        &Device::Cpu,
    )?;
    let mut tape = Tape::new(Mode::F32);
    let want = model.forward_eval(&mut tape, &x, &Default::default())?.to_vec::<f32>()?;
    for choice in
        [Choice::Forced(Algorithm::Dense), Choice::Forced(Algorithm::Sparse), Choice::Measured]
    {
        let mut plan = Plan::build(&model, batch, Mode::F32, choice)?;
        let y = plan.run(&x)?.to_vec::<f32>()?;
        let e: f32 = y.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
        let n: f32 = want.iter().map(|b| b.powi(2)).sum();
        let mut times: Vec<f64> = (0..rounds)
            .map(|_| {
                let t = Instant::now();
                plan.run(&x).unwrap();
                t.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{choice:?}: min {:.3} median {:.3} ms, error {:.1e}, {:?}, {} MB",
            times[0],
            times[rounds / 2],
            (e / n).sqrt(),
            plan.build_times(),
            plan.activation_bytes() >> 20
        );
        if choice == Choice::Measured {
            for layer in plan.layers() {
                println!(
                    "  {:<24}{:?} {:.3} {:.3}",
                    layer.name,
                    layer.algorithm,
                    layer.dense_ms.unwrap_or(0.0),
                    layer.sparse_ms.unwrap_or(0.0)
                );
            }
        }
    }
    Ok(())
}
