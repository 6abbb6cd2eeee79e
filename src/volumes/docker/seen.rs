//! What an engine's two lists say, in our words.

use std::path::{Path, PathBuf};

use bollard::models::{self, ContainerSummary};
use chrono::DateTime;

use crate::{
    config::VolumeName,
    volumes::{Container, User, Volume},
};

/// A volume; none where its name is none that a thread's volume can have.
pub(super) fn volume(volume: models::Volume) -> Option<Volume> {
    let name = volume.name.parse::<VolumeName>().ok()?;
    let created_at = volume.created_at.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Some(Volume {
        labels: volume.labels.into_iter().collect(),
        created_at: created_at.map(|instant| instant.to_utc()),
        folder: folder(&name, &volume.mountpoint).map(Path::to_owned),
        name,
    })
}

/// A container with what it mounts.
pub(super) fn container(container: ContainerSummary) -> Container {
    let mounts = container.mounts.unwrap_or_default();
    let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    Container {
        user: User {
            id: container.id.unwrap_or_default(),
            name: name.trim_start_matches('/').to_owned(),
            state: container.state.map(|state| state.to_string()).unwrap_or_default(),
        },
        volumes: mounts.iter().filter_map(|mount| mount.name.as_deref()?.parse().ok()).collect(),
        sources: mounts.into_iter().filter_map(|mount| mount.source).map(PathBuf::from).collect(),
    }
}

/// The folder that has nothing but this volume in it: of what the engine keeps itself, the one above the files.
fn folder<'m>(name: &VolumeName, mountpoint: &'m str) -> Option<&'m Path> {
    let path = Path::new(mountpoint);
    // Some drivers say where only as long as somebody mounts the volume.
    path.parent()?;
    let own = path.parent().filter(|above| path.ends_with("_data") && above.ends_with(name.as_str()));
    Some(own.unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    use serde_json::{Value, json};

    use super::*;
    use crate::volumes::Look;

    const ROOT: &str = "/var/lib/docker/volumes";

    fn name(text: &str) -> VolumeName {
        text.parse().unwrap()
    }

    fn volume(name: &str) -> Value {
        json!({"Name": name, "Driver": "local", "Mountpoint": format!("{ROOT}/{name}/_data"), "Labels": null,
               "Options": null, "Scope": "local", "CreatedAt": "2026-11-21T18:42:57Z"})
    }

    /// A container `one` with these mounts.
    fn container(mounts: &Value) -> Value {
        json!({"Id": "1d", "Names": ["/one"], "State": "exited", "Mounts": mounts})
    }

    fn bind(source: &str) -> Value {
        json!({"Type": "bind", "Source": source, "Destination": "/w"})
    }

    fn seen(volumes: &Value, containers: &Value) -> Look {
        let volumes: Vec<models::Volume> = serde_json::from_value(volumes.clone()).unwrap();
        let containers: Vec<ContainerSummary> = serde_json::from_value(containers.clone()).unwrap();
        let volumes = volumes.into_iter().filter_map(super::volume).collect();
        Look::of(volumes, containers.into_iter().map(super::container).collect())
    }

    /// The volumes among `ha_ws_1` and `ha_ws_12` that a container with this mount refers to.
    fn referred_by(mount: &Value) -> Vec<String> {
        let look = seen(&json!([volume("ha_ws_1"), volume("ha_ws_12")]), &json!([container(&json!([mount]))]));
        let names: BTreeSet<_> = look.users.keys().map(ToString::to_string).collect();
        names.into_iter().collect()
    }

    #[test]
    fn lists_a_volume_with_its_labels_and_its_age() {
        let mut labelled = volume("ha_ws_1");
        labelled["Labels"] = json!({"b": "2", "a": "1"});
        labelled["CreatedAt"] = json!("2026-11-21T20:42:57+02:00");
        let look = seen(&json!([labelled]), &json!([]));
        let labels = BTreeMap::from([("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())));
        let created_at = Some("2026-11-21T18:42:57Z".parse().unwrap());
        let folder = Some(Path::new(ROOT).join("ha_ws_1"));
        assert_eq!(look.volumes, [Volume { name: name("ha_ws_1"), labels, created_at, folder }]);
        assert!(look.users.is_empty());
    }

    #[test]
    fn a_volume_whose_age_cannot_be_read_has_none() {
        for text in [json!(""), json!("yesterday"), json!(null)] {
            let mut volume = volume("ha_ws_1");
            volume["CreatedAt"] = text;
            assert_eq!(seen(&json!([volume]), &json!([])).volumes[0].created_at, None);
        }
    }

    #[test]
    fn leaves_out_what_cannot_be_the_volume_of_a_thread() {
        let anonymous = "3f".repeat(32);
        let look = seen(&json!([volume("a/b"), volume("x"), volume(&anonymous), volume("?force=1")]), &json!([]));
        assert_eq!(look.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), [anonymous]);
    }

    #[test]
    fn a_container_is_a_user_of_what_it_mounts_once() {
        let mounted = json!({"Type": "volume", "Name": "ha_ws_1", "Source": format!("{ROOT}/ha_ws_1/_data")});
        let look =
            seen(&json!([volume("ha_ws_1")]), &json!([container(&json!([mounted, mounted])), container(&json!([]))]));
        let user = User { id: "1d".to_owned(), name: "one".to_owned(), state: "exited".to_owned() };
        assert_eq!(look.users, HashMap::from([(name("ha_ws_1"), vec![user])]));
    }

    #[test]
    fn a_name_is_compared_whole() {
        assert_eq!(referred_by(&json!({"Type": "volume", "Name": "ha_ws_12"})), ["ha_ws_12"]);
        assert_eq!(referred_by(&bind(&format!("{ROOT}/ha_ws_12/_data"))), ["ha_ws_12"]);
    }

    #[test]
    fn who_binds_the_folder_of_a_volume_or_something_in_it_is_a_user() {
        for path in ["ha_ws_1", "ha_ws_1/_data", "ha_ws_1/_data/", "ha_ws_1/_data/a/b"] {
            assert_eq!(referred_by(&bind(&format!("{ROOT}/{path}"))), ["ha_ws_1"], "{path}");
        }
    }

    #[test]
    fn who_binds_what_is_above_or_beside_a_volume_is_none() {
        for path in ["/", "/var/lib/docker", ROOT, "/var/lib/docker/volumes/ha_ws_3", "", "ha_ws_1"] {
            assert_eq!(referred_by(&bind(path)), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn a_volume_of_another_driver_is_known_by_its_own_folder() {
        for (mountpoint, source, is_user) in
            [("/mnt/a/1", "/mnt/a/1/x", true), ("/mnt/a/_data", "/mnt/a", false), ("", "", false)]
        {
            let mut volume = volume("ha_ws_1");
            volume["Mountpoint"] = json!(mountpoint);
            let look = seen(&json!([volume]), &json!([container(&json!([bind(source)]))]));
            assert_eq!(!look.users.is_empty(), is_user, "{mountpoint:?} {source:?}");
        }
    }

    #[test]
    fn a_container_of_which_little_is_said_counts_nonetheless() {
        let bare = json!({"Mounts": [{"Name": "ha_ws_1"}]});
        let look = seen(&json!([volume("ha_ws_1")]), &json!([bare, {"Id": "2"}]));
        let user = User { id: String::new(), name: String::new(), state: String::new() };
        assert_eq!(look.users, HashMap::from([(name("ha_ws_1"), vec![user])]));
    }
}
