import DaemonSettings
import LockEngine
import Logging
import NIOCore
import RESP
import RedisLeases

/// Makes the store that a URL names: a link to one primary, or links to those of a cluster.
struct StoreMaker {
  let loop: any EventLoop
  let configuration: ConfigurationInForce
  let instance: String
  let clock: HostClock
  let logger: Logger

  /// Told what the store tells by itself.
  var onEvent: (StoreEvent, ShardID) -> Void = { _, _ in }
  /// Called when there is something to send.
  var onOutput: () -> Void = {}
  /// Called when the first attempt to connect has succeeded or failed.
  var onFirstOutcome: () -> Void = {}
  /// Called before input is looked at.
  var onInput: () -> Void = {}
  /// How long answers may take by what was measured, in milliseconds.
  var roundTripMilliseconds: () -> Int64 = { 0 }
  /// Whether somebody waits for a message about leases, and for the answer to a question to another host.
  var isPushAwaited: (LeasePush) -> Bool = { _ in true }
  var isAnswerAwaited: (UInt64) -> Bool = { _ in true }

  func store(at url: RedisURL) -> any LeaseStore {
    if case .cluster(let seeds) = url.endpoint { return cluster(seeds, url) }
    let encoder = LeaseCommandEncoder(
      keyPrefix: settings.keyPrefix, database: url.database, host: settings.host, instance: instance)
    return link(to: url, LeaseEncoders(encoder), onEvent: onEvent, onFirstOutcome: onFirstOutcome)
  }

  private var settings: Settings { configuration.settings }

  private func cluster(_ seeds: RedisClusterSeeds, _ url: RedisURL) -> ClusterLinks {
    ClusterLinks(
      loop: loop, seeds: seeds, usesTLS: url.usesTLS,
      login: { [configuration] in configuration.settings.live.redisLogin },
      clientName: "sidelockd-\(settings.host)-nodes",
      timeoutMilliseconds: settings.live.engine.storeTimeoutMilliseconds, clock: clock, logger: logger,
      makeDialer: { [loop, clock, configuration] address in
        let security =
          url.usesTLS
          ? LinkSecurity(loop: loop, host: address.host) { configuration.settings.live.redisTLS } : nil
        return RedisDialer(
          loop: loop, endpoint: .tcp(host: address.host, port: address.port), security: security, clock: clock)
      },
      makeLink: { node, address, onEvent, onFirstOutcome in
        var place = url
        place.endpoint = .tcp(host: address.host, port: address.port)
        let encoders = LeaseEncoders(
          keyPrefix: settings.keyPrefix, node: node, host: settings.host, instance: instance)
        return link(to: place, encoders, .primary(node), onEvent: onEvent, onFirstOutcome: onFirstOutcome)
      },
      onEvent: onEvent, onOutput: onOutput, onFirstOutcome: onFirstOutcome)
  }

  private func link(
    to url: RedisURL, _ encoders: LeaseEncoders, _ clusterRole: ClusterRole? = nil,
    onEvent: @escaping (StoreEvent, ShardID) -> Void, onFirstOutcome: @escaping () -> Void
  ) -> RedisLink {
    let link = RedisLink(
      loop: loop, url: url, login: { [configuration] in configuration.settings.live.redisLogin },
      tls: { [configuration] in configuration.settings.live.redisTLS }, encoders: encoders, clusterRole: clusterRole,
      host: settings.host, timeoutMilliseconds: settings.live.engine.storeTimeoutMilliseconds, clock: clock,
      logger: logger, onEvent: onEvent, onOutput: onOutput, onFirstOutcome: onFirstOutcome)
    link.answerMilliseconds = { [roundTripMilliseconds, configuration] in
      // A dead link must be noticed in time to save the leases.
      min(2 * roundTripMilliseconds(), configuration.settings.live.engine.goneMilliseconds / 3)
    }
    link.need = { [configuration] in configuration.settings.live.engine.need }
    link.onInput = onInput
    link.isAwaited = { [isPushAwaited, isAnswerAwaited] message in
      switch message {
      case .lease(let push): isPushAwaited(push)
      case .answer(let id, _): isAnswerAwaited(id)
      case .call, .trial: false
      }
    }
    return link
  }
}

extension Settings.Backend {
  /// How names are divided, where the store has several shards.
  var cells: LockCells? {
    if case .redis(let url) = self, case .cluster = url.endpoint { ClusterCells.ofLocks } else { nil }
  }
}
