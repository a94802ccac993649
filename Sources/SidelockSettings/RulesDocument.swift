/// The chapter on rules of the reference page.
extension SettingsDocument {
  /// What stands for rules in the sample file.
  static let sampleRules = ["allow use,inspect orders/* to group:shop", "deny use,inspect orders/* to everyone"]

  static let rulesChapter = #"""

    ## Rules

    ```yaml
    rules:
      - allow use,inspect orders/* to group:shop,unit:shop.service
      - deny use,inspect orders/* to everyone
      - allow use "night run" to unit:cron.service
      - deny use "night run" to everyone
      - allow break * to user:anna
    ```

    A rule is `allow` or `deny`, the rights, the names, `to`, and whom it is about. Both lists have commas and no spaces
    between their parts.

    | right | what needs it |
    |---|---|
    | `use` | to take a lock, to give it back and what else is done with it, and to be handed it by another session |
    | `inspect` | `inspect` and `watch`; `list` shows only names that the client may inspect |
    | `break` | to take a lock away from whoever has it |

    A name is that lock; with a `*` at its end it is all names that begin so, and `*` alone is every name. A name with spaces
    stands in double quotes. `\` takes the meaning from a `*`, a `"` or a `\` behind it; `\n` is a line end, `\t` a tab.

    | whom | |
    |---|---|
    | `everyone` | whoever can connect to the socket |
    | `user:NAME` | the processes of a user, by name or number |
    | `group:NAME` | the processes that have the group, as their own or a supplementary one, by name or number |
    | `unit:NAME` | the processes of a unit of the system's service manager, such as `cron.service`. A user's own services are all `user@UID.service` |

    The first rule that is about the client, the right and the name decides, for root like for anybody else. Where none
    is, everybody may use and inspect, and root, the user that the daemon runs as and the members of the group
    `sidelock-admin` may break. Put general rules last.

    What counts is the process that connected, as it was then; a child that inherits the connection has its rights. The
    unit is read from `/proc` when the session first asks for something, and its requests wait until it is known. It is
    taken from the hierarchy of control groups that names it, the unified one or that of the first version
    (`name=systemd`). Where it cannot be read, where no unit is named, and where the two name different ones, rules that
    deny a unit are taken to be about the client, and rules that allow one are not, and the log says so: with rules that
    name a unit, the packaged service needs `show-programs.conf` from `/usr/share/doc/sidelock/examples`, and the daemon
    warns at its start when it cannot see other processes.

    Names of users and groups are turned into numbers when the settings are read; one that does not exist is an error.
    With SIGHUP new rules hold at once for what is asked from then on, and names are looked up anew. What is held stays
    held, and may still be given back; what waits goes on waiting.

    There may be 1,000 rules of 4,096 bytes each.

    """#
}
