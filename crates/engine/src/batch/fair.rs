//! Fairness between keys: the time that each has been given.

/// The time given to each key with requests, waiting or running.
pub(super) struct Accounts {
    all: Vec<Account>,
}

struct Account {
    key: u64,
    /// Milliseconds of passes, counted from the least of the others when the key appeared.
    paid: f64,
    /// Number of its requests, and how many of them run.
    requests: usize,
    running: usize,
}

impl Accounts {
    /// For up to `requests` requests at once.
    pub(super) fn new(requests: usize) -> Self {
        Self { all: Vec::with_capacity(requests) }
    }

    fn get(&mut self, key: u64) -> Option<&mut Account> {
        self.all.iter_mut().find(|a| a.key == key)
    }

    /// Counts a new request. A new key begins with the time of the key that was given least, so that
    /// it is not ahead of everybody for the time in which it sent nothing.
    pub(super) fn join(&mut self, key: u64) {
        if let Some(account) = self.get(key) {
            account.requests += 1;
            return;
        }
        let least = self.all.iter().map(|a| a.paid).min_by(f64::total_cmp);
        self.all.push(Account { key, paid: least.unwrap_or(0.0), requests: 1, running: 0 });
    }

    /// Removes a request.
    pub(super) fn leave(&mut self, key: u64) {
        if let Some(account) = self.get(key) {
            account.requests -= 1;
        }
        self.all.retain(|a| a.requests > 0);
    }

    /// Counts a request that starts or stops running.
    pub(super) fn run(&mut self, key: u64, starts: bool) {
        if let Some(account) = self.get(key) {
            account.running = if starts { account.running + 1 } else { account.running - 1 };
        }
    }

    pub(super) fn charge(&mut self, key: u64, ms: f64) {
        if let Some(account) = self.get(key) {
            account.paid += ms;
        }
    }

    /// Milliseconds given to a key.
    pub(super) fn paid(&self, key: u64) -> f64 {
        self.all.iter().find(|a| a.key == key).map_or(0.0, |a| a.paid)
    }

    /// Number of a key's running requests.
    pub(super) fn running(&self, key: u64) -> usize {
        self.all.iter().find(|a| a.key == key).map_or(0, |a| a.running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_starts_level_with_the_key_that_was_given_least() {
        let mut accounts = Accounts::new(4);
        accounts.join(1);
        accounts.charge(1, 500.0);
        accounts.join(2);
        assert_eq!((accounts.paid(1), accounts.paid(2)), (500.0, 500.0));
        accounts.charge(1, 100.0);
        accounts.join(3);
        assert_eq!(accounts.paid(3), 500.0);
        accounts.leave(1);
        accounts.join(1);
        assert_eq!(accounts.paid(1), 500.0, "nothing is owed for an earlier visit");
    }
}
