//! The command lines that a page shows: what stands in its code blocks.

use std::fs;
use std::path::{Path, PathBuf};

/// A command line and where it stands.
#[derive(Debug)]
pub struct Line {
    pub place: String,
    pub text: String,
}

/// Signs of a picture, and how a block begins that shows a file or a directory.
const PICTURES: [char; 4] = ['─', '└', '►', '→'];
const FILES: [&str; 2] = ["# ~/", "~/"];

/// Returns README.md and docs/*.md.
pub fn paths() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs =
        fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("a page").path());
    let mut paths: Vec<_> =
        docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.sort();
    paths.insert(0, root.join("README.md"));
    paths
}

/// Returns the command lines of each page.
pub fn all() -> Vec<Vec<Line>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = paths();
    let pages = paths.iter().map(|path| {
        let name = path.strip_prefix(root).expect("below").display().to_string();
        lines(&name, &fs::read_to_string(path).expect("a page"))
    });
    pages.collect()
}

/// Returns the command lines in the examples that `--help` prints.
pub fn examples(help: &str) -> Vec<Line> {
    let examples = help.lines().skip_while(|line| line.trim() != "Examples:").skip(1);
    let examples = examples.take_while(|line| line.starts_with(' '));
    examples.map(|line| Line { place: "--help".into(), text: line.trim().into() }).collect()
}

fn lines(page: &str, text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for (number, block) in blocks(text) {
        let first = block.first().copied().unwrap_or_default();
        if block.iter().any(|line| line.contains(PICTURES))
            || FILES.iter().any(|file| first.starts_with(file))
        {
            continue;
        }
        // A backslash at the end joins two lines.
        let joined = block.join("\n").replace("\\\n", " ");
        let place = format!("{page}:{number}");
        // A recording has its commands behind a prompt, and what they printed.
        let prompt = if first.starts_with("$ ") { "$ " } else { "" };
        let commands = joined.lines().filter_map(|line| line.strip_prefix(prompt));
        found.extend(commands.map(|line| Line { place: place.clone(), text: line.trim().into() }));
    }
    found.retain(|line| !line.text.is_empty());
    found
}

/// Returns the code blocks, fenced or indented by four blanks, each with the number of its first line.
fn blocks(text: &str) -> Vec<(usize, Vec<&str>)> {
    let mut blocks: Vec<(usize, Vec<&str>)> = Vec::new();
    // A blank line neither begins an indented block nor ends it.
    let (mut fenced, mut open, mut before) = (false, false, "");
    for (index, line) in text.lines().enumerate() {
        let indented = line.strip_prefix("    ");
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            open = false;
            if fenced {
                blocks.push((index + 2, Vec::new()));
            }
        } else if fenced || open && (indented.is_some() || line.is_empty()) {
            let block = blocks.last_mut().expect("one is open");
            block.1.push(indented.filter(|_| !fenced).unwrap_or(line));
        } else {
            open = indented.is_some() && before.is_empty();
            if let Some(code) = indented.filter(|_| open) {
                blocks.push((index + 1, vec![code]));
            }
        }
        before = line;
    }
    blocks
}
