# frozen_string_literal: true

Gem::Specification.new do |spec|
  spec.name = "sidelock"
  spec.version = "0.1.0"
  spec.summary = "Locks over processes and hosts, from the sidelockd of this host"
  spec.authors = ["sidelock"]
  spec.license = "Apache-2.0"
  spec.required_ruby_version = ">= 2.7"
  spec.files = ["lib/sidelock.rb", "lib/sidelock/redlock.rb", "README.md"]
end
