//! `rewire doctor`: what this machine and this build can do.

use super::{Context, Outcome};
use crate::device::{Doctor, Finding};
use std::fmt::Write;

/// Devices, driver, compiler and kernels: what is there, what is missing, and what that means
#[derive(clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let doctor = Doctor::examine();
        context.print(&describe(&doctor), &doctor)?;
        Ok(Outcome::Done)
    }
}

fn describe(doctor: &Doctor) -> String {
    let found = |finding: &Finding| match finding {
        Finding::Found { version, path: Some(path) } => format!("{version} ({path})"),
        Finding::Found { version, path: None } => version.clone(),
        Finding::Missing { missing } => format!("not there: {missing}"),
    };
    let kernels = &doctor.kernels;
    let built = match &kernels.built_by_nvrtc {
        Some(version) => format!("{} as PTX by NVRTC {version}", kernels.embedded_as_ptx),
        None => "as sources, compiled on first use where NVRTC is".to_owned(),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| _ = writeln!(text, "{name:<14}{value}");
    line("rewire", &doctor.version);
    line("auto", &doctor.auto_device);
    let features = doctor.cpu_features.join(" ");
    line("cpu", &format!("{} threads; {features}", doctor.threads));
    line("cuda driver", &found(&doctor.cuda_driver));
    for device in &doctor.cuda_devices {
        let (major, minor) = device.capability;
        let (gib, sms) = (device.memory >> 30, device.multiprocessors);
        let what = format!("{}, sm_{major}{minor}, {sms} SMs, {gib} GiB", device.name);
        line("cuda device", &format!("{}: {what}", device.device));
    }
    if let Some(problem) = &doctor.cuda_problem {
        line("", &format!("{problem}; --device cpu works"));
    }
    line("nvrtc", &found(&doctor.nvrtc));
    let count = format!("{} files, {} entry points", kernels.files, kernels.entry_points);
    line("kernels", &format!("{count}; embedded {built}"));
    line("cuda-host", if doctor.cuda_host { "in this build" } else { "not in this build" });
    line(
        "cache",
        doctor.cache.as_deref().unwrap_or("none: neither XDG_CACHE_HOME nor HOME is set"),
    );
    text
}
