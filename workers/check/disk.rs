//! What `janitor check` finds of a host's folder.

use apalis_janitor::{
    config::DiskConfig,
    host::{Root, RootError, Space},
    runs::Findings,
};

/// Opens the folder, and looks at what the job names in it.
pub fn check(config: &DiskConfig) -> Result<Findings, RootError> {
    let root = Root::open(&config.root)?;
    let mut findings = Findings::default();
    match Space::of(&root) {
        Ok(space) => {
            let (used, available) = (space.used_share() * 100.0, space.available_bytes);
            findings.facts.push(format!("{used:.1} % of the disk is used, {available} bytes are available"));
        }
        Err(error) => findings.warnings.push(format!("how full its disk is cannot be told: {error}")),
    }
    let is_mount = root.is_mount().unwrap_or(true);
    if !is_mount && config.pressure.is_some() {
        let text = "it is no mount: others write to the same disk, and what they take counts as pressure";
        findings.warnings.push(text.to_owned());
    }
    for path in config.media.iter().flat_map(|media| &media.paths) {
        if !config.root.join(path).is_dir() {
            findings.warnings.push(format!("media: there is no folder {}", path.display()));
        }
    }
    for references in &config.references {
        if !config.root.join(&references.path).is_file() {
            findings.warnings.push(format!("references: there is no file {}", references.path.display()));
        }
    }
    Ok(findings)
}
