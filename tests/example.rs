//! The example runs.

#[path = "../examples/train_and_prune.rs"]
mod train_and_prune;

#[test]
fn train_and_prune_ends_well() {
    train_and_prune::main().unwrap();
}
