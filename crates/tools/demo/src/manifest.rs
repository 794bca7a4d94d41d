//! The Service that the README asks users to apply, read from the README.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// The first YAML block that is a Service.
pub fn service(readme: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(readme).with_context(|| format!("{}", readme.display()))?;
    let blocks = yaml_blocks(&text).into_iter();
    let mut services = blocks.filter(|block| block.lines().any(|line| line == "kind: Service"));
    let block = services
        .next()
        .with_context(|| format!("{} contains no YAML block with a Service", readme.display()))?;
    serde_saphyr::from_str(&block).with_context(|| format!("the Service in {}", readme.display()))
}

fn yaml_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while lines.any(|line| line == "```yaml") {
        let block = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(block.collect::<Vec<_>>().join("\n"));
    }
    blocks
}
