#!/usr/bin/env ruby
# frozen_string_literal: true

# The conformance suite's driver. See protocol/conformance/README.md.
require_relative "lib/sidelock"

TYPES = { Sidelock::Busy => "busy", Sidelock::Timeout => "timeout", Sidelock::Cancelled => "cancelled", Sidelock::Lost => "lost",
          Sidelock::Denied => "denied", Sidelock::Unavailable => "unavailable", Sidelock::Deadlock => "deadlock",
          Sidelock::UnderReplicated => "under_replicated" }.freeze
AT_ONCE = %w[noop held cancel leave path].freeze
CONTROL = %w[session watch unwatch open close].freeze

class BodyFailed < StandardError; end

# What the program's threads share.
class Driver
  def initialize
    @client = Sidelock::Client.new
    @locks, @tickets, @watches, @workers = {}, {}, {}, {}
    @leaves = Hash.new { |all, label| all[label] = Queue.new }
    @output = Mutex.new
  end

  def say(head, **fields)
    words = fields.map { |key, value| "#{key}=#{value.to_s.b.gsub(%r{[^A-Za-z0-9/:,._-]}n) { |byte| format("%%%02X", byte.ord) }}" }
    @output.synchronize { $stdout.syswrite([head, *words].join(" ") << "\n") }
  end

  def parse(line)
    tag, verb, *words = line.chomp.split(" ")
    args = {}
    words.each do |word|
      key, value = word.split("=", 2)
      value = value.gsub(/%(\h\h)/) { $1.hex.chr }.b.force_encoding("UTF-8")
      key == "name" ? (args[:names] ||= []) << value : args[key.to_sym] = value
    end
    [tag, verb, args]
  end

  def serve
    $stdin.each_line do |line|
      tag, verb, args = parse(line)
      next answer(tag, verb, args) if AT_ONCE.include?(verb)
      name = CONTROL.include?(verb) ? "control" : args.fetch(:worker, "0")
      jobs = @workers[name] ||= Queue.new.tap { |queue| Thread.new { loop { answer(*queue.pop) } } }
      jobs << [tag, verb, args]
    end
    @client.close
  end

  def answer(tag, verb, args)
    fields = send("do_#{verb}", args, tag)
    say("#{tag} ok", **(fields.is_a?(Hash) ? fields : {}))
  rescue BodyFailed
    say("#{tag} error body")
  rescue Sidelock::Error => fault
    type = TYPES.fetch(fault.class, "error")
    fields = { type: type, message: fault.message }
    fields[:holders] = fault.holders.size if %w[busy timeout].include?(type)
    fields[:acknowledged] = fault.acknowledged if type == "under_replicated"
    fields[:lost] = fault.loss.reason if type == "lost"
    say("#{tag} error #{fault.reason.empty? ? "unknown" : fault.reason}", **fields)
  end

  def options(args)
    label = args[:lock]
    made = { shared: args[:mode] == "shared", meta: args[:meta_bytes] ? "x" * args[:meta_bytes].to_i : args[:meta],
             permits: args[:permits]&.to_i, wait: args[:wait] && args[:wait].to_i / 1000.0,
             max_hold: args[:max_hold] && args[:max_hold].to_i / 1000.0, on_lost: on_lost(label),
             replicas: args[:replicas]&.to_i, durability: args[:durability] }
    return made unless args[:progress]
    made.merge(on_waiting: ->(told) { say("event waiting", lock: label, position: told["position"]) },
               on_contended: ->(waiters) { say("event contended", lock: label, waiters: waiters) })
  end

  def on_lost(label)
    ->(loss) { say("event lost", lock: label, name: loss.name, token: loss.token, reason: loss.reason, grace_ms: loss.grace_ms) }
  end

  def valid(lock)
    lock.valid.nil? ? "none" : (lock.valid * 1000).to_i
  end

  def do_noop(*); end

  def do_path(*)
    { path: Sidelock.socket_path(@client.path) }
  end

  def do_open(args, _)
    @client = Sidelock::Client.new(args[:path], patience: args.fetch(:answer_ms, 5000).to_i / 1000.0)
  end

  def do_close(*)
    @client.close
  end

  def do_session(*)
    { session: @client.session }
  end

  def do_acquire(args, tag)
    ticket = @tickets[tag] = Sidelock::Ticket.new
    lock = @locks[args[:lock]] = @client.lock(*args[:names], ticket: ticket, **options(args))
    { token: lock.instance_variable_get(:@tokens).values.join(","), mode: lock.mode, valid_ms: valid(lock) }
  end

  def do_scope(args, _)
    @client.lock(*args[:names], **options(args)) do |lock|
      say("event entered", lock: args[:lock], token: lock.token) if lock.held?
      raise BodyFailed if @leaves[args[:lock]].pop == :fail
    end
    nil
  end

  def do_leave(args, _)
    @leaves[args[:lock]] << (args[:fail] ? :fail : :leave)
    nil
  end

  def do_release(args, _)
    @locks[args[:lock]].release
    nil
  end

  def do_held(args, _)
    lock = @locks[args[:lock]] or return { held: 0 }
    fields = { held: lock.held? ? 1 : 0, valid_ms: valid(lock) }
    lock.loss ? fields.merge(lost: lock.loss.reason) : fields
  end

  def do_cancel(args, _)
    @tickets[args[:target]].cancel
    nil
  end

  def do_downgrade(args, _)
    @locks[args[:lock]].downgrade
    nil
  end

  def do_extend(args, _)
    @locks[args[:lock]].extend_hold(args[:max_hold] == "none" ? nil : args[:max_hold].to_i / 1000.0)
    nil
  end

  def do_transfer(args, _)
    @locks[args[:lock]].transfer(args[:session])
    nil
  end

  def do_accept(args, _)
    @client.accept_transfers do |lock|
      @locks[args[:lock]] = lock
      lock.on_lost = on_lost(args[:lock])
      say("event transferred", lock: args[:lock], name: lock.names[0], token: lock.instance_variable_get(:@tokens).values[0])
    end
    nil
  end

  def do_watch(args, _)
    watch = @watches[args[:watch]] = @client.watch(args[:names]&.first, prefix: args[:prefix])
    Thread.new do
      watch.each { |event| say("event watch", **event.transform_keys(&:to_sym), watch: args[:watch]) }
    end
    nil
  end

  def do_unwatch(args, _)
    @watches[args[:watch]].close
    nil
  end

  def do_cycles(args, _)
    last, rising = 0, 1
    File.write(args[:file], "0")
    Array.new(args[:workers].to_i) do
      Thread.new do
        args[:cycles].to_i.times do
          @client.lock(*args[:names]) do |lock|
            File.write(args[:file], (File.read(args[:file]).to_i + 1).to_s)
            rising = 0 unless lock.token > last
            last = lock.token
          end
        end
      end
    end.each(&:join)
    { rising: rising }
  end

  def do_spawn(*)
    { pid: spawn("sleep", "60", in: "/dev/null", out: "/dev/null", close_others: false) }
  end

  def do_fork(args, _)
    pid = fork do
      lock = @locks[args[:lock]]
      fields = { held: lock.held? ? 1 : 0 }
      begin
        lock.release
      rescue Sidelock::Error => fault
        fields[:release] = fault.reason
      end
      fields[:acquired] = @client.lock(*args[:names], wait: 0).held? ? 1 : 0
      begin
        @client.lock(*lock.names, wait: 0)
        fields[:again] = 1
      rescue Sidelock::Busy
        fields[:again] = 0
      end
      say("event child", **fields)
      exit!(0) if args[:exit]
      sleep
    end
    { pid: pid }
  end
end

trap("USR1") {}
driver = Driver.new
driver.say("driver 1", language: "ruby", features: "fork,connects")
driver.serve
