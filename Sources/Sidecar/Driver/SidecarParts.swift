import LockEngine
import Logging
import NIOCore

/// What the driver is made of beside its core. Each part is given what it needs of the others.
struct SidecarParts {
  let counts: LimitCounts
  let rights: RightsCache
  let room: DescriptorRoom
  let peers: PeerDirectory
  let losses: LossEnforcer
  let lifetimes: SessionLifetimes
  let limits: SessionLimits
  let watches: WatchBook
  let recovery: RecoveryNews
  let namesakes: Namesakes
  let queries: LockQueries
  let replies: ReplyWriter
  let router: RequestRouter
  let input: ClientInput
  let audit: AuditTrail
  let registry: ClientRegistry

  /// What all of them share.
  struct Base {
    let configuration: ConfigurationInForce
    let instance: String
    let inbox: String
    let life: LifeStage
    let loop: any EventLoop
    let logger: Logger
    let clock: HostClock
    let engine: LockEngine
    let door: EngineDoor
    let sessions: SessionTable
    let output: TurnOutput
    let statistics: SidecarStatistics
  }

  /// The parts, and what keeps them over a restart.
  static func make(
    on base: Base, keeping: (any KeptSource) -> SessionKeeper?
  ) -> (parts: SidecarParts, keeper: SessionKeeper?) {
    let (configuration, logger, clock, engine) = (base.configuration, base.logger, base.clock, base.engine)
    let (door, sessions, output, statistics) = (base.door, base.sessions, base.output, base.statistics)
    let counts = LimitCounts()
    let inputs = InputTurns()
    let rights = RightsCache(configuration: configuration, output: output, clock: clock, logger: logger)
    let room = DescriptorRoom(
      configuration: configuration, sessions: sessions, output: output, counts: counts, logger: logger)
    let peers = PeerDirectory(
      loop: base.loop, clock: clock, logger: logger, sessions: sessions, rights: rights, room: room, door: door)
    let audit = AuditTrail(
      configuration: configuration, loop: base.loop, clock: clock, logger: logger, sessions: sessions, peers: peers,
      engine: engine, door: door)
    counts.onMet = { [weak audit] in audit?.met($0, $1, peer: $2) }
    let losses = LossEnforcer(
      engine: engine, peers: peers, room: room, output: output, statistics: statistics, clock: clock, logger: logger)
    let lifetimes = SessionLifetimes(
      loop: base.loop, clock: clock, logger: logger, sessions: sessions, output: output, peers: peers, losses: losses,
      room: room)
    let limits = SessionLimits(
      configuration: configuration, counts: counts, sessions: sessions, output: output, room: room,
      lifetimes: lifetimes, losses: losses, statistics: statistics, logger: logger)
    let watches = WatchBook(
      configuration: configuration, counts: counts, sessions: sessions, output: output, rights: rights, door: door,
      others: HeardHosts(
        loop: base.loop, inputs: inputs, output: output, door: door, clock: clock, inbox: base.inbox),
      clock: clock, loop: base.loop)
    let traces = TraceBook(sessions: sessions, output: output, rights: rights, watches: watches, engine: engine)
    let queries = LockQueries(
      configuration: configuration, engine: engine, sessions: sessions, output: output, rights: rights, limits: limits,
      door: door, inputs: inputs, statistics: statistics, clock: clock, logger: logger, inbox: base.inbox)
    watches.who = { [weak queries] in queries?.info($0) }
    queries.tellEvents = { [weak watches] in watches?.asked(by: $0, $1, stream: $2, since: $3) ?? [] }
    queries.users = audit.users
    queries.who = { [weak audit] in audit?.who($0) ?? [:] }
    lifetimes.who = { [weak audit] in audit?.who($0) ?? [:] }
    losses.who = lifetimes.who
    let keeper = keeping(
      KeptDaemon(
        instance: base.instance, configuration: configuration, engine: engine, sessions: sessions, limits: limits,
        output: output, door: door))
    let router = RequestRouter(
      configuration: configuration, instance: base.instance, engine: engine, clock: clock, logger: logger,
      sessions: sessions, output: output, rights: rights, peers: peers, losses: losses, lifetimes: lifetimes,
      watches: watches, traces: traces, queries: queries, door: door)
    router.onDenied = { [weak audit] in audit?.denied($1, to: $0) }
    let input = ClientInput(
      clock: clock, engine: engine, life: base.life, sessions: sessions, output: output, inputs: inputs, rights: rights,
      limits: limits, router: router, door: door, keeper: keeper, statistics: statistics, audit: audit, traces: traces)
    let registry = ClientRegistry(
      life: base.life, sessions: sessions, output: output, limits: limits, counts: counts, room: room, peers: peers,
      lifetimes: lifetimes, watches: watches, traces: traces, door: door, keeper: keeper, statistics: statistics,
      audit: audit)
    return (
      SidecarParts(
        counts: counts, rights: rights, room: room, peers: peers, losses: losses, lifetimes: lifetimes, limits: limits,
        watches: watches, recovery: RecoveryNews(logger: logger, watches: watches),
        namesakes: Namesakes(
          loop: base.loop, output: output, logger: logger, host: configuration.settings.host, inbox: base.inbox),
        queries: queries,
        replies: ReplyWriter(queries: queries, rights: rights, counts: counts),
        router: router, input: input, audit: audit, registry: registry), keeper
    )
  }
}
