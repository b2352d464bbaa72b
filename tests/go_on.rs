//! Runs that go on: with other recipes, more epochs, after signals and after a divergence.

use crate::fixture;
use rewire::run::{Progress, Recipe, Session};
use rewire::train::Event;
use rewire::{Device, ErrorKind};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const DATA: &str = "synthetic:classes=4,size=32,channels=1,train=40,test=16";

/// Five steps an epoch, two epochs, a constant learning rate.
const RECIPE: &str = r#"
schema = 1
name = "small"
data = { set = "synthetic:classes=4,size=32,channels=1,train=40,test=16" }
model = { arch = "vgg16:width=0.0625" }
train = { epochs = 2, batch_size = 8, optimizer = { lr = 0.02 } }
"#;

const PRUNE: &str = "[prune]\nmethod = 'dnr'\ndensity = 0.2\nrho = 1e-4\n";

fn folder(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small.toml"), recipe).unwrap();
    folder
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = fixture::program(folder);
    command.args(args).args(["--device", "cpu"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The exit status, standard output and standard error.
fn ended(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    ended(command(folder, args).output().unwrap())
}

fn done(folder: &Path, args: &[&str]) -> (String, String) {
    let (status, out, error) = run(folder, args);
    assert_eq!(status, Some(0), "{args:?}: {error}");
    (out, error)
}

/// Every file of a folder, with its content.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => _ = found.insert(path.clone(), fs::read(path).unwrap()),
        }
    }
    found
}

/// Refused with status 2, in one line, with every file as it was.
fn refused(folder: &Path, args: &[&str]) -> String {
    let before = content(folder);
    let (status, out, error) = run(folder, args);
    assert_eq!((status, out.as_str()), (Some(2), ""), "{args:?}: {error}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    assert!(content(folder) == before, "{args:?} changed a file");
    error
}

/// Starts the recipe with `set` in `folder/name` and stops it after the given step.
fn stopped(folder: &Path, name: &str, set: &[&str], after: u64) -> PathBuf {
    let text = fs::read_to_string(folder.join("small.toml")).unwrap();
    let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
    let recipe = Recipe::parse(Path::new("small.toml"), &text, &set).unwrap();
    let (dir, stop) = (folder.join(name), AtomicBool::new(after == 1));
    let session = Session::start(&dir, recipe, false, &Device::Cpu).unwrap();
    let error = session.run(&stop, &mut |progress| match progress {
        Progress::Event(Event::Step(step)) if step.step + 1 == after => {
            stop.store(true, Ordering::Relaxed);
        }
        _ => {}
    });
    assert!(matches!(error.unwrap_err().kind(), ErrorKind::Interrupted(_)));
    dir
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn events(dir: &Path, kind: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(dir.join("events.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_recipe_that_was_changed_is_refused_with_the_keys_that_differ() {
    let folder = folder(&format!("{RECIPE}{PRUNE}[[eval]]\nattack = 'fgsm'\n"));
    let folder = folder.path();
    let recipe = stopped(folder, "run", &[], 7).join("recipe.toml");
    let before = fs::read(&recipe).unwrap();
    let resume = ["train", "--resume", "run"];
    replace(&recipe, "lr = 0.02", "lr = 0.001");
    replace(&recipe, "attack = \"fgsm\"", "attack = \"fgsm\"\ntarget = \"next\"");
    let error = refused(folder, &resume);
    assert!(error.contains("train.optimizer.lr: 0.02 then, 0.001 now"), "{error}");
    assert!(error.contains("eval[1].target: absent then, \"next\" now"), "{error}");
    assert!(error.contains("recipe.toml") && !error.contains("train.epochs"), "{error}");
    // The key that can be changed is refused here too, with the command that changes it.
    fs::write(&recipe, &before).unwrap();
    replace(&recipe, "epochs = 2", "epochs = 3");
    let error = refused(folder, &resume);
    assert!(error.contains("train.epochs: 2 then, 3 now"), "{error}");
    assert!(error.contains("--resume run --set train.epochs=3"), "{error}");
    // With the values of then it goes on, and the finished run is refused alike.
    fs::write(&recipe, &before).unwrap();
    done(folder, &resume);
    replace(&recipe, "density = 0.2", "density = 0.3");
    let error = refused(folder, &resume);
    assert!(error.contains("prune.density: 0.2 then, 0.3 now"), "{error}");
}

#[test]
fn a_finished_run_is_prolonged_and_says_so() {
    let folder = folder(RECIPE);
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "whole", "--set", "train.epochs=4"]);
    done(folder, &["train", "small.toml", "--out", "run"]);
    let dir = folder.join("run");
    fs::write(dir.join("bench.json"), "of another checkpoint").unwrap();
    let (_, error) = done(folder, &["train", "--resume", "run", "--set", "train.epochs=4"]);
    let line = "4 epochs instead of 2; goes on after 2 whole epochs with learning rate 0.02";
    assert!(error.contains(line), "{error}");
    // Nothing of clean training at a constant learning rate depends on the number of epochs.
    for name in ["recipe.toml", "steps.csv", "epochs.csv", "checkpoints/state.safetensors"] {
        let read = |run: &str| fs::read(folder.join(run).join(name)).unwrap();
        assert!(read("run") == read("whole"), "{name} differs");
    }
    assert!(!dir.join("bench.json").exists());
    let prolonged = events(&dir, "prolonged");
    assert_eq!(prolonged.len(), 1);
    let [step, from, to] = ["step", "from", "to"].map(|key| prolonged[0][key].as_u64());
    assert_eq!([step, from, to], [Some(10), Some(2), Some(4)]);
    let environment = fs::read(dir.join("environment.json")).unwrap();
    let environment: serde_json::Value = serde_json::from_slice(&environment).unwrap();
    assert_eq!(environment["prolonged"][0]["to"], 4);
    // The same number again: nothing to do.
    let before = content(&dir);
    for args in [
        &["train", "--resume", "run", "--set", "train.epochs=4"][..],
        &["train", "--resume", "run"],
    ] {
        assert!(done(folder, args).0.contains("nothing to do"));
        assert!(content(&dir) == before);
    }
}

#[test]
fn a_run_that_was_stopped_is_prolonged_with_the_schedule_of_more_epochs() {
    let folder = folder(&format!("{RECIPE}{PRUNE}"));
    let folder = folder.path();
    let dir = stopped(folder, "run", &["train.schedule.kind=cosine", "train.epochs=3"], 7);
    // A kill between the writing of the two recipes leaves this.
    replace(&dir.join("recipe.toml"), "epochs = 3", "epochs = 6");
    let (_, error) = done(folder, &["train", "--resume", "run", "--set", "train.epochs=6"]);
    assert!(error.contains("6 epochs instead of 3; goes on after 1 whole epochs"), "{error}");
    assert!(error.contains("by the cosine schedule over 6 epochs"), "{error}");
    let steps = fs::read_to_string(dir.join("steps.csv")).unwrap();
    let rates: Vec<f64> = steps
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(2).unwrap().parse().unwrap())
        .collect();
    assert_eq!(rates.len(), 30);
    let cosine = |epoch: f64, of: f64| 0.01 * (1.0 + (std::f64::consts::PI * epoch / of).cos());
    // Two steps of epoch 2 were done by the schedule of three epochs.
    for (step, want) in [(6, cosine(1.0, 3.0)), (7, cosine(1.0, 6.0)), (25, cosine(5.0, 6.0))] {
        assert!((rates[step] - want).abs() < 1e-12, "step {}: {}", step + 1, rates[step]);
    }
    assert_eq!(events(&dir, "rewired").len(), 5);
    assert_eq!(events(&dir, "prolonged").len(), 1);
}

#[test]
fn masks_of_a_finished_run_are_rewired_before_its_next_epoch() {
    let folder = folder(&format!("{RECIPE}{PRUNE}"));
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "run"]);
    let dir = folder.join("run");
    let epochs = |dir: &Path| -> Vec<u64> {
        events(dir, "rewired").iter().map(|event| event["epoch"].as_u64().unwrap()).collect()
    };
    assert_eq!(epochs(&dir), [1]);
    // A kill right after it was prolonged: neither event comes twice.
    drop(Session::prolong(&dir, None, 4).unwrap().unwrap());
    assert!(!dir.join("result.json").exists());
    done(folder, &["train", "--resume", "run"]);
    assert_eq!(epochs(&dir), [1, 2, 3]);
    assert_eq!(events(&dir, "prolonged").len(), 1);
    // z is what the weights were when the epoch began: the penalty of its first step is 0.
    let steps = fs::read_to_string(dir.join("steps.csv")).unwrap();
    let penalty = |step: usize| steps.lines().nth(step).unwrap().split(',').nth(6).unwrap();
    assert!(penalty(11) == "0" && penalty(12) != "0", "{steps}");
}

#[test]
fn only_the_number_of_epochs_can_be_set_on_a_run() {
    let folder = folder(RECIPE);
    let folder = folder.path();
    stopped(folder, "run", &["train.epochs=3"], 7);
    let set = |assignment| refused(folder, &["train", "--resume", "run", "--set", assignment]);
    for (assignment, words) in [
        ("train.optimizer.lr=0.1", &["--set = train.optimizer.lr=0.1", "train.epochs=N"][..]),
        ("train.epochs", &["train.epochs", "whole number"]),
        ("train.epochs=many", &["train.epochs = many", "whole number"]),
        ("train.epochs=0", &["train.epochs = 0"]),
        ("train.epochs=1", &["train.epochs = 1", "at least 2", "run"]),
    ] {
        let error = set(assignment);
        assert!(words.iter().all(|word| error.contains(word)), "{assignment}: {error}");
    }
    // Fewer epochs than planned, but no fewer than begun.
    done(folder, &["train", "--resume", "run", "--set", "train.epochs=2"]);
    let lines = |name: &str| fs::read_to_string(folder.join(name)).unwrap().lines().count();
    assert_eq!((lines("run/steps.csv"), lines("run/epochs.csv")), (11, 3));
    // More epochs do nothing where another key has ended the run.
    done(folder, &["train", "small.toml", "--out", "short", "--set", "train.max_steps=3"]);
    let error = refused(folder, &["train", "--resume", "short", "--set", "train.epochs=9"]);
    assert!(error.contains("train.max_steps"), "{error}");
}

#[test]
fn a_divergence_ends_the_run_and_keeps_the_checkpoint_before() {
    let folder = folder(RECIPE);
    let folder = folder.path();
    // One step an epoch: some are whole before the loss leaves its range.
    let set = ["--set", "train.optimizer.lr=1e4", "--set", "train.batch_size=40"];
    let train = ["train", "small.toml", "--out", "run", "--set", "train.epochs=50", "--json"];
    let (status, out, error) = run(folder, &[&train[..], &set].concat());
    assert_eq!(status, Some(1), "{error}");
    let line = error.lines().last().unwrap();
    let says =
        ["error: training diverged", "after step", "(epoch", "train.optimizer.lr, which is 10000"];
    assert!(says.iter().all(|word| line.contains(word)), "{line}");
    let last = folder.join("run/checkpoints/last.safetensors");
    assert!(line.contains("run/checkpoints/last.safetensors"), "{line}");
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(document["error"].as_str().unwrap().starts_with("training diverged"), "{document}");
    // Every checkpoint that is there can be read: its values are finite.
    done(folder, &["eval", last.to_str().unwrap(), "--data", DATA]);
    assert!(!folder.join("run/result.json").exists());
    // What --resume would do is known: it says so instead, and changes nothing.
    let before = content(&folder.join("run"));
    for more in [&[][..], &["--set", "train.epochs=60"]] {
        let (status, _, error) = run(folder, &[&["train", "--resume", "run"][..], more].concat());
        assert_eq!(status, Some(1), "{error}");
        assert!(error.contains("diverges again") && error.contains("lr=1000"), "{error}");
        assert!(error.trim_end().lines().count() == 1, "{error}");
    }
    assert!(content(&folder.join("run")) == before);
}

#[cfg(unix)]
mod signals {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::time::{Duration, Instant};

    /// A command in which no signal is ignored at the start, whatever the tests were started by (`nohup`, a job in the
    /// background).
    fn listening(folder: &Path, args: &[&str]) -> Command {
        let mut command = command(folder, args);
        let reset = || {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                // SAFETY: `signal` may be called between fork and exec, and the default action is no function of this program.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: `reset` allocates nothing and takes no lock.
        unsafe { command.pre_exec(reset) };
        command
    }

    fn signal(child: &std::process::Child, signals: &[&str]) {
        for name in signals {
            let status = Command::new("kill").args([name, &*child.id().to_string()]).status();
            assert!(status.unwrap().success());
        }
    }

    /// Waits until the file that the child writes has so many lines.
    fn wait(child: &mut std::process::Child, file: &Path, lines: usize) {
        let written = || fs::read_to_string(file).is_ok_and(|text| text.lines().count() >= lines);
        while !written() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it was stopped");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the child handles SIGTERM itself; a moment where the system does not tell.
    fn wait_for_handler(child: &std::process::Child) {
        const SIGTERM: u64 = 1 << (15 - 1);
        for _ in 0..2000 {
            std::thread::sleep(Duration::from_millis(5));
            let Ok(text) = fs::read_to_string(format!("/proc/{}/status", child.id())) else {
                continue;
            };
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            if u64::from_str_radix(caught.trim(), 16).unwrap() & SIGTERM != 0 {
                return;
            }
        }
    }

    #[test]
    fn a_run_is_saved_when_the_machine_or_the_terminal_goes_away() {
        let folder = folder(RECIPE);
        let folder = folder.path();
        // Two at once are one request: `timeout` signals the process and its group.
        for signals in [&["-TERM"][..], &["-HUP"], &["-TERM", "-TERM", "-HUP"]] {
            let train =
                ["train", "small.toml", "--out", "run", "--force", "--set", "train.epochs=1000"];
            let mut child = listening(folder, &train).spawn().unwrap();
            wait(&mut child, &folder.join("run/steps.csv"), 3);
            signal(&child, signals);
            let (status, _, error) = ended(child.wait_with_output().unwrap());
            assert_eq!(status, Some(130), "{signals:?}: {error}");
            assert!(error.contains("go on with: rewire train --resume run"), "{error}");
            assert!(folder.join("run/checkpoints/state.safetensors").exists());
            // The run must be over before it is replaced.
            fs::remove_dir_all(folder.join("run")).unwrap();
        }
    }

    #[test]
    fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
        let folder = folder(RECIPE);
        let folder = folder.path();
        let program = command(folder, &[]).get_program().to_owned();
        let mut child = Command::new("sh");
        child.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program).current_dir(folder);
        child.args(["train", "small.toml", "--out", "run", "--device", "cpu"]);
        child.args(["--set", "train.epochs=20"]);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        wait(&mut child, &folder.join("run/steps.csv"), 3);
        signal(&child, &["-HUP"]);
        let (status, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(status, Some(0), "{error}");
    }

    #[test]
    fn an_attack_is_saved_after_its_batch_and_a_later_signal_ends_it_at_once() {
        let folder = folder(RECIPE);
        let folder = folder.path();
        done(folder, &["train", "small.toml", "--out", "run", "--set", "train.max_steps=1"]);
        let model = "run/checkpoints/last.safetensors";
        let attack = ["attack", model, "--data", DATA, "--batch-size", "4"];
        let sweep = ["--sweep", "eps=1/255,8/255", "--steps", "300", "--out"];
        for name in ["-TERM", "-HUP"] {
            // The signal's name is the folder's.
            let args = [&attack[..], &sweep, &[&name[1..]]].concat();
            let mut child = listening(folder, &args).spawn().unwrap();
            wait(&mut child, &folder.join(&name[1..]).join("parts/0-0.json"), 1);
            signal(&child, &[name]);
            let (status, _, error) = ended(child.wait_with_output().unwrap());
            assert_eq!(status, Some(130), "{name}: {error}");
            assert!(error.contains("go on with the same command"), "{name}: {error}");
        }
        // A batch that takes minutes.
        let long = [&attack[..], &["--steps", "1000000", "--out", "long"]].concat();
        let mut child = listening(folder, &long).spawn().unwrap();
        wait(&mut child, &folder.join("long/attack.json"), 1);
        wait_for_handler(&child);
        signal(&child, &["-TERM"]);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(child.try_wait().unwrap(), None, "the first signal waits for the batch");
        signal(&child, &["-TERM"]);
        let asked = Instant::now();
        let (status, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(status, Some(130), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{error}");
    }
}

#[test]
fn what_killed_writers_left_in_a_folder_is_removed_when_it_is_opened() {
    let folder = folder(RECIPE);
    let folder = folder.path();
    let plant = |dir: &str, name: &str| {
        fs::create_dir_all(folder.join(dir)).unwrap();
        fs::write(folder.join(dir).join(name), "half").unwrap();
    };
    let none_left = || {
        let left =
            content(folder).into_keys().find(|path| path.to_str().unwrap().contains("rewire-tmp"));
        assert_eq!(left, None);
    };
    let train = ["train", "small.toml", "--out", "run", "--set", "train.max_steps=1"];
    // Before there was a run; where it is replaced; where it goes on.
    let again = [&train[..], &["--force"]].concat();
    for args in [&train[..], &again, &["train", "--resume", "run"]] {
        plant("run", ".recipe.toml.rewire-tmp");
        plant("run/checkpoints", ".state.safetensors.4711.0.rewire-tmp");
        done(folder, args);
        none_left();
    }
    // Attacks: the same again, and others in their place.
    let attack = ["attack", "run/checkpoints/best.safetensors", "--data", DATA, "--out", "o"];
    for more in [&["--steps", "1"][..], &["--steps", "1"], &["--steps", "2", "--force"]] {
        plant("o", ".result.json.rewire-tmp");
        plant("o/parts", ".0-0.json.rewire-tmp");
        done(folder, &[&attack[..], more].concat());
        none_left();
    }
}

#[test]
fn the_end_of_a_run_says_where_its_checkpoints_lie_and_what_comes_next() {
    let folder = folder(&format!("{RECIPE}[[eval]]\nattack = 'fgsm'\neps = '8/255'\n"));
    let folder = folder.path();
    let train = ["train", "small.toml", "--out", "run", "--set", "train.max_steps=1"];
    let (out, _) = done(folder, &train);
    assert!(
        out.contains("under fgsm, eps 8/255") && out.contains("run/checkpoints/best.safetensors")
    );
    // The commands work as they stand.
    let commands: Vec<&str> =
        out.lines().filter_map(|line| line.trim().strip_prefix("rewire ")).collect();
    let first = |line: &&str| line.split(' ').next().unwrap().to_owned();
    assert_eq!(
        commands.iter().map(first).collect::<Vec<_>>(),
        ["eval", "attack", "bench", "report"]
    );
    for command in [commands[0], commands[3]] {
        done(folder, &command.split(' ').collect::<Vec<_>>());
    }
    let (out, _) = done(folder, &[&train[..], &["--force", "--json"]].concat());
    assert!(
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["accuracy"]["clean"].is_number()
    );
}
