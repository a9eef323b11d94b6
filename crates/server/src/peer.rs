//! Who is at the other end of a Unix socket: the kernel knows the user, and grants say what that user is here.

use std::collections::BTreeMap;

use app::policy::{Principal, Role};

/// Whoever runs the service and root administer it; others have what was granted to them, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Grants(BTreeMap<u32, Role>);

impl Grants {
    pub fn new(granted: impl IntoIterator<Item = (u32, Role)>) -> Self {
        Self(granted.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn principal(&self, uid: u32, own: u32) -> Option<Principal> {
        let role = if uid == own || uid == 0 { Role::Admin } else { *self.0.get(&uid)? };
        Some(Principal { user: user_name(uid), role })
    }
}

/// The login name where the machine has one, and the number where not.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&users, uid).unwrap_or_else(|| format!("uid:{uid}"))
}

fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A user by name or number.
pub fn uid_of(user: &str) -> Option<u32> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user.parse().ok().or_else(|| uid_in(&users, user))
}

fn uid_in(users: &str, user: &str) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != user {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n:x:1001:1::/:\nbroken\n";

    #[test]
    fn a_user_is_known_by_name_or_by_number() {
        assert_eq!((name_in(USERS, 1000), name_in(USERS, 1001), name_in(USERS, 5)), (Some("ann".into()), None, None));
        assert_eq!((uid_in(USERS, "ann"), uid_in(USERS, "bob"), uid_of("77")), (Some(1000), None, Some(77)));
    }

    #[test]
    fn only_the_owner_and_root_are_somebody_without_a_grant() {
        let grants = Grants::new([(7, Role::Operator)]);
        assert_eq!(grants.principal(5, 5).unwrap().role, Role::Admin);
        assert_eq!(grants.principal(0, 5).unwrap().role, Role::Admin);
        assert_eq!(grants.principal(7, 5).unwrap().role, Role::Operator);
        assert_eq!(grants.principal(8, 5), None);
    }
}
