//! The recipes of `recipes/`, embedded.

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        /// Names and texts, in the order of `rewire list recipes`.
        pub const RECIPES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../recipes/", $name, ".toml")))),*];
    };
}

recipes![
    "demo-dense",
    "demo-irregular",
    "demo-channel",
    "small-clean",
    "small-adversarial",
    "small-dnr-irregular",
    "small-dnr-channel",
    "small-dnr-reference",
    "small-dnr-no-l2-irregular",
    "small-dnr-no-l2-channel",
    "small-dnr-c-irregular",
    "small-dnr-c-channel",
    "small-sparse-learning",
    "small-static",
    "fine-tune",
    "resnet18-cifar10-adversarial",
    "resnet18-cifar10-clean",
    "resnet18-cifar10-dnr-c-channel-d18",
    "resnet18-cifar10-dnr-c-irregular-d5",
    "resnet18-cifar10-dnr-channel-d50",
    "resnet18-cifar10-dnr-irregular-d5",
    "resnet18-cifar10-dnr-no-l2-channel-d50",
    "resnet18-cifar10-dnr-no-l2-irregular-d5",
    "resnet18-cifar100-adversarial",
    "resnet18-cifar100-clean",
    "resnet18-cifar100-dnr-c-channel-d18",
    "resnet18-cifar100-dnr-c-irregular-d5",
    "resnet18-cifar100-dnr-channel-d50",
    "resnet18-cifar100-dnr-irregular-d5",
    "resnet50-cifar10-clean",
    "resnet50-cifar10-dnr-c-irregular-d5",
    "vgg16-cifar10-adversarial",
    "vgg16-cifar10-clean",
    "vgg16-cifar10-dnr-c-channel-d8",
    "vgg16-cifar10-dnr-c-irregular-d3",
    "vgg16-cifar10-dnr-channel-d50",
    "vgg16-cifar10-dnr-irregular-d5",
    "vgg16-cifar10-dnr-no-l2-channel-d50",
    "vgg16-cifar10-dnr-no-l2-irregular-d5",
    "vgg16-cifar10-sparse-learning-d3",
    "vgg16-cifar100-adversarial",
    "vgg16-cifar100-clean",
    "vgg16-cifar100-dnr-c-channel-d36",
    "vgg16-cifar100-dnr-c-irregular-d5",
    "vgg16-tiny-imagenet-adversarial",
    "vgg16-tiny-imagenet-clean",
    "vgg16-tiny-imagenet-dnr-c-channel-d58",
    "vgg16-tiny-imagenet-dnr-c-irregular-d9",
    "vgg16-tiny-imagenet-dnr-channel-d69",
    "vgg16-tiny-imagenet-dnr-irregular-d5",
];

/// The text of the embedded recipe of that name.
pub fn find(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// What a recipe is for: the comment lines it starts with.
pub fn summary(text: &str) -> String {
    let comments = text.lines().map_while(|line| line.strip_prefix('#'));
    comments.map(str::trim).collect::<Vec<_>>().join(" ")
}
