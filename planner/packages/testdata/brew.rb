# Does with a formula what brew does, where there is no brew: brew.rb FORMULA OS CPU ARCHIVE PREFIX
# checks the archive's checksum, unpacks it, installs it into PREFIX, and runs the formula's test.
require "digest"
require "fileutils"
require "pathname"
require "tmpdir"

formula, OS, CPU, archive, prefix = ARGV
PREFIX = Pathname.new(prefix)

# A folder into which a formula installs files, some of them under other names.
class Folder < Pathname
  def install(*files)
    mkpath
    files.flatten.each do |file|
      (file.is_a?(Hash) ? file.to_a : [[file, File.basename(file)]]).each do |from, to|
        FileUtils.cp(from, self/to)
      end
    end
  end
end

class Formula
  class << self
    attr_reader :recipe

    %w[desc homepage license url sha256].each do |name|
      define_method(name) { |value| (@given ||= {})[name] = value }
    end

    def version(value = nil) = value ? @version = value : @version
    def given = @given
    def depends_on(*) = nil
    def on_macos = OS == "darwin" && yield
    def on_linux = OS == "linux" && yield
    def on_arm = CPU == "arm64" && yield
    def on_intel = CPU == "amd64" && yield
    def test(&block) = @recipe = block
  end

  { bin: "bin", man1: "share/man/man1", bash_completion: "etc/bash_completion.d",
    fish_completion: "share/fish/vendor_completions.d", zsh_completion: "share/zsh/site-functions" }.each do |name, path|
    define_method(name) { Folder.new(PREFIX/path) }
  end

  def version = self.class.version
  def testpath = Pathname.new(Dir.pwd)

  def shell_output(command)
    out = `#{command}`
    raise "#{command}: #{$?}" unless $?.success?
    out
  end

  def assert_match(expected, text)
    raise "#{text.inspect} has no #{expected.inspect}" unless text.include?(expected)
  end
end

load formula
made = SkopeoWorker
raise "#{made.given["url"]} is not #{archive}" unless File.basename(made.given["url"]) == File.basename(archive)
raise "the checksum is not that of #{archive}" unless Digest::SHA256.file(archive).hexdigest == made.given["sha256"]
exit if PREFIX.to_s.empty?

Dir.mktmpdir do |dir|
  system("tar", "-xzf", archive, "-C", dir, "--strip-components=1", exception: true)
  Dir.chdir(dir) { made.new.install }
end
Dir.mktmpdir { |dir| Dir.chdir(dir) { made.new.instance_eval(&made.recipe) } }
