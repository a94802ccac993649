/// The reference page of the settings and the sample file, made from the table. `packaging/settings.md` and
/// `packaging/sidelockd.yaml` are copies; a test compares them.
public enum SettingsDocument {
  /// The page in Markdown.
  public static var markdown: String {
    var text = """
      # Settings of sidelockd

      Every setting is a flag, an environment variable and a key in the YAML file given with `--config` (or
      `SIDELOCK_CONFIG`). A flag wins over the environment, the environment over the file, the file over the default.
      Of `redis` and `local` exactly one is needed; whichever stands in the place that wins is used.

      `sidelockd --check` prints the settings that hold, and where each comes from, without starting anything. Unknown
      names and bad values are all reported at once, and the exit code is 78. A `redis_timeout_ms` that is not less than
      half of `lease_ms` is such a bad value.

      Paths on the command line and in the environment are taken byte for byte, and shown with `\\xE9` for a byte that is
      no part of UTF-8. The file, and every value that is no path, must be UTF-8.

      What Kubernetes and Docker tell a container of services beside it (`SIDELOCK_REDIS_SERVICE_HOST`,
      `SIDELOCK_REDIS_PORT=tcp://…`) is no setting and no mistake: it is not used, with a warning.

      SIGHUP (`systemctl reload sidelockd`) has a running daemon read its file again. If everything in it is good, the
      settings that say "reload" under "changes at" change at once, and the daemon says which of the others wait for a
      restart. If anything in it is bad, nothing changes, and the log and the status line say what is wrong. Reading that
      takes long, as from a file server that is silent, or where it cannot be known who a user is, holds nothing up: signals
      are heard meanwhile, and a restart waits a second for it and then goes on with the settings of before.

      The file must be a regular one. What whoever starts the daemon has opened for it (`/dev/stdin`,
      a shell's `<(…)`) is read at the start, too; if it is a pipe it cannot be read again, so that a reload changes nothing.

      A restart by the service manager with anything bad changes nothing either: the daemon goes on with the settings that
      it had, says so, and takes others when it is told to reload and finds them good.

      When the service manager makes the socket (`sidelockd.socket`), its path and permissions are those of that unit,
      and `socket`, `socket_mode` and `socket_group` have no effect. Elsewhere the daemon must be root, or a member of the group.

      A name in `redis` is looked up at each attempt to connect, and each of its addresses is tried: the one that was good
      last, then those that have not failed, then the one that failed longest ago. A replica, a server that refuses to log in
      and an address that is silent for 250 ms do not keep the next one waiting. What each has come to stands in the log and in
      the status line.

      Where Redis Sentinels watch over the primary, name them: `redis-sentinel://host1,host2,host3/0?sentinelMasterId=NAME`,
      with the name of `sentinel monitor NAME …` (port 26379 unless given; one that is named is enough to hear of the others). User and
      password in the URL, and `redis_user` and `redis_password_file`, are those of Redis; where the sentinels ask for a login,
      it stands in `redis_sentinel_user` and `redis_sentinel_password_file`. A daemon asks one sentinel after the other until
      most of them have answered, as many as they need for a failover themselves, and does not connect before: a few that are cut
      off may know an old primary only. Those that the URL names count, too: one that has lost its file knows of no others. So take
      those out of the URL that are gone for good. Where they disagree, the highest config epoch is believed. It then listens to one of them:
      a failover ends the connection to the old primary at once. A new primary begins an epoch, in which
      for as long as the longest lease held locks are kept and nothing new is granted; so leases should be longer than a failover takes
      (`down-after-milliseconds` and about two seconds), or locks are lost in it. What bounds the harm of an old primary that
      is cut off and goes on is `min-replicas-to-write 1` and a `min-replicas-max-lag` below two thirds of `lease_ms`. The command `FAILOVER`,
      of which sentinels hear only after 20 s, is for sets without them: `SENTINEL FAILOVER NAME` is the one to use.

      For a Redis Cluster name some of its nodes, primaries or replicas: `redis-cluster://host1,host2,host3` (port 6379 unless given); they tell of the others. One
      that answers is enough, and as many should be named as may be down together. A daemon keeps a connection to each primary that has slots of locks.
      The locks are in 64 parts, each in one slot, spread evenly over all slots ([what stands in Redis](../protocol/README.md#on-a-redis-cluster)). A primary that fails
      over, or a slot that moves, concerns its parts alone: what is held there stays held, and nothing new is granted there for as long as the longest lease. So leases should be
      longer than a failover takes (`cluster-node-timeout` and about two seconds), and slots should move in less than half of `lease_ms`: while some keys of a slot are at one primary
      and some at another, nothing in its part can be renewed. `redis-cli --cluster reshard` moves one slot after the other, and one with a thousand locks in well under a second. Large keys of others
      in such a slot make that longer, and so do nodes that are far apart (raise `--cluster-pipeline` there). A reshard that was broken off leaves a slot halfway: `redis-cli --cluster fix` finishes it, and meanwhile `sidelock health`, the status line and
      the log name the slot. What bounds the
      harm of an old primary that is cut off and goes on is the same as with Sentinels. The state that is kept over a restart belongs to the
      nodes that the URL names, in any order: a daemon with others begins anew. With `cluster-require-full-coverage no` locks at other primaries go on where one is down.

      A URL that begins with `rediss://` means TLS, 1.2 or newer; with `rediss-sentinel://` it is for the sentinels and for Redis, and with `rediss-cluster://` for all nodes, each of
      which needs a certificate for the name or address by which it is known to the others. The certificate of Redis must be signed by one of the CAs in
      `redis_tls_ca` (where that is not set: of the system), be good today, and be for the host of the URL, or for
      `redis_tls_server_name`: a name, which is also told to the server (SNI), or an address. Only subject alternative names
      count; a certificate that has nothing but a common name is for nobody. Nobody is asked whether a certificate was revoked.
      With `redis_tls_verify: none` all of this is left out, whoever answers is believed and is told the password; the log repeats it
      at each connection. A Redis that wants a certificate of its clients is shown `redis_tls_cert`, with the key of
      `redis_tls_key` or of the same file.

      These three files are looked at when the settings are read and read anew at each connection. So a new
      certificate or CA is used from the next connection on, without a reload, and a connection that is there goes on, also when a certificate
      is over meanwhile. After a change of the files SIGHUP tells whether they can be used. They must be regular files.
      As credentials of systemd they are `sidelock.redis-tls-ca`, `sidelock.redis-tls-cert` and `sidelock.redis-tls-key`
      (`/etc/credstore`, or a drop-in with paths), of which systemd gives the service copies at its start: there a new certificate needs
      a restart, over which clients keep their locks.

      The login of Redis may change while the daemon runs, and nobody loses a lock or his place by that. The password of the URL and
      `redis_user` change at a reload. `redis_password_file` is read anew at each connection and at a reload, and looked at every
      10 s: when it is another file, or was written to, the connection that is there logs in again (AUTH). So a password is rotated without a word
      to the daemon: let the user of Redis have both (`ACL SETUSER locks >NEW`), replace the file, and take the old one away
      (`ACL SETUSER locks <OLD`) when the logs of all hosts say "Redis has taken other credentials". The file must be a regular one.

      `redis_credentials_command` is for tokens that are good for minutes, as clouds give them (IAM). It is run without
      arguments, input or shell, as the daemon's user and with its environment, but for `SIDELOCK_…` and what the service manager says. On
      the first line it writes the password, and it may write lines `expires_in=SECONDS` and `user=NAME` behind it:

      ```
      eyJhbGciOiJSUzI1NiIs…
      expires_in=900
      user=sidelock-prod
      ```

      It has 10 s and 4,096 bytes, and must end with status 0. It is run for each connection, but not within 10 s of the last time, at a
      reload, and, where it says `expires_in`, a minute or a fifth of that time before it is over (of less than three minutes,
      a third): the connection logs in again with what it gives. On a Cluster that is so for the connection to each primary, and for
      the one that asks how things are. Only root and the daemon's user may be able to write to it and to its
      directory, as whoever can change it can do what the daemon can.

      When a file or a program fails, or Redis refuses what it gives, the connection goes on with the login of before. So does one of a
      user who lacks rights, which are tried again behind each login, while nothing else is sent. The log says why, once a minute, and
      it is tried again after 1 s, 2 s and so on up to 30 s. No password is written anywhere. An ACL user of Redis
      with these rights, and no others, is enough, where `sidelock:` is the `key_prefix`:

      ```
      ACL SETUSER locks on >PASSWORD ~sidelock:* resetchannels &sidelock:* +evalsha +script|load +subscribe +del +exists +get +info +lindex +llen +lpop +lpos +lrange +lrem +pexpire +ping +pttl +publish +pubsub +rpush +scan +set +time +type
      ```

      A database other than 0 needs `+select`, and a Cluster `+cluster|myid` and `+cluster|nodes`. What can be done without stands in the chapter on Redis of `protocol/README.md`.

      Without Redis (`local`) tokens rise over restarts of the daemon and of the host, whatever the clock shows then: how far they
      may have gone stands in the file `local_state_file`, and a daemon begins behind that, and not below the clock (in
      microseconds). No two daemons share a file. The service has it in `/var/lib/sidelock`. A daemon that is started by
      hand has it beside its socket, where it outlives a reboot only if that directory does (`/run` does not); where none
      can be made there either, tokens rise as the clock does. Both are said in the log. A file that was chosen and cannot
      be written or whose directory other users could change, one that they could set back, that is damaged or of another
      daemon, and a clock before 1970 (without a file) or after 2255 keep
      the daemon from starting, and it says what to do.

      A host that is gone keeps its locks from others until its leases end. Where that is too long, and a lease of that length
      would not outlive an outage of Redis that nobody should notice, set `dead_host_ms` (2000 or more, less than
      `lease_ms`): a daemon then writes a sign of life three times in that time, one small script for all of its locks (with a Cluster one for each of the 64 parts), and
      others get what it has that long, and up to a second, after the last one. The price is the same as with a short lease: when Redis does
      not answer for 85 % of it, or the daemon is away for so long (a restart, or a watchdog that kills a daemon that hangs), every lock of
      the host is lost.

      A slow link to Redis needs a `redis_timeout_ms` that is longer than an answer takes; `stats` tells that time as
      `round_trip_ms`. Where answers come to take longer later, twice the measured time is waited for, up to a third of
      `lease_ms` (or `dead_host_ms`, if that is less); the handshake is given four times what connecting took. Another host, whose link may be slower than this
      one, is waited for as long as a link may be silent: `redis_timeout_ms` (500 ms at least) and the measured time of this
      host, which `stats` tells as `holder_timeout_ms`. So long a try waits for a host that has the lock and does not say
      whether it uses it, and so long `inspect`, `list` and `break` wait for one that does not answer. Give all hosts the same
      `redis_timeout_ms`, and leases of at least ten times what an answer takes. `sidelock` waits for all of that, as long as
      the daemon answers its `ping`. A deadlock over two hosts is found about ten times what an answer takes after it has come
      about (within a second where that is up to 50 ms, and 20 s where it is 2 s), and three times that time later for each further
      host.

      Redis answers before its replicas have heard of a write. Where a lock must outlive its primary and its host together, set
      `replicas`: a client is told of a lock when so many replicas have its lease, and with `durability` `disk` when they and the primary have it on disk (Redis 7.2 or later; with `appendfsync
      everysec` that takes up to a second, so set `replicas_timeout_ms` to 3000 then; a
      replica that is far away needs four times what it takes to answer). Set `min-replicas-to-write` of Redis to the same number: a primary that has lost its
      replicas takes no renewals then. The daemon warns where it is less.

      `rules` is a list: in the file a rule on each line, as `--rule` once for each rule, and in the environment with
      line ends or `;` between them. The list of the place that wins is used as a whole. See "Rules" below. `audit` is
      such a list, too: see "What is logged".

      | YAML key | flag | environment | values | default | meaning | changes at |
      |---|---|---|---|---|---|---|

      """
    for key in SettingKey.allCases {
      let row = key.definition
      let value = row.kind == .boolean ? "" : " " + row.valueName
      let cells = [
        "`\(key.rawValue)`", "`--\(key.flagName)\(value)`", "`\(key.environmentName)`", row.kind.allowed,
        row.defaultText, row.summary, key.changesLive ? "reload" : "restart",
      ]
      text += "| " + cells.joined(separator: " | ") + " |\n"
    }
    text += """

      Names that end in `_ms` are in milliseconds. The password of Redis is best kept out of flags and environment (every user
      of the host can read the flags of a process, so a password in them is warned of):
      put it into a file for `redis_password_file`, or let systemd pass it as the credential `\(passwordCredential)`, of which it
      gives the service a copy at its start: there another password needs a restart, over which clients keep their locks.

      A file that says what the defaults say:

      ```yaml
      redis: redis://localhost:6379/0

      """
    for key in SettingKey.allCases {
      switch key.definition.kind {
      case .integer, .socketPath, .mode, .keyPrefix, .verification, .durability, .logLevel:
        text += "\(key.rawValue): \(key.definition.sample)\n"
      case .redisURL, .boolean, .userName, .filePath, .program, .pemFile, .stateFile, .hostName, .serverName, .rules,
        .audit:
        break
      }
    }
    return text + "```\n" + rulesChapter + auditChapter
  }

  /// The file that a package installs: Redis on this host, and every other setting explained but not set.
  public static var sampleFile: String {
    var text = """
      # Settings of sidelockd: see sidelockd.yaml(5).
      #
      # After a change: sidelockd --config /etc/sidelock/sidelockd.yaml --check
      #                 systemctl reload sidelockd
      # Settings marked "restart" change only with: systemctl restart sidelockd
      #
      # With sidelockd.socket, path and permissions of the socket are those of that unit.
      # The password of Redis need not stand here: put it into /etc/credstore/sidelock.redis-password (mode 0600). Nor need the
      # files for TLS, which can be sidelock.redis-tls-ca, sidelock.redis-tls-cert and sidelock.redis-tls-key there.

      """
    for key in SettingKey.allCases {
      let row = key.definition
      text += "\n# \(row.summary) (\(key.changesLive ? "reload" : "restart")).\n"
      text += "# Values: \(row.kind.allowed). Default: \(row.defaultText).\n"
      text += "\(key == .redis ? "" : "#")\(key.rawValue): \(row.sample)\n"
    }
    return text
  }
}
