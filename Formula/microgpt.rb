class Microgpt < Formula
  desc "Train, sample, chat with and serve small GPT language models"
  homepage "https://karpathy.github.io/2026/02/12/microgpt/"
  # The formula is part of the project's repository, so a tap contains the source.
  url "file://#{File.expand_path("..", __dir__)}", using: :git, branch: "main"
  version "0.1.0"
  license "MIT"

  depends_on "rust" => :build

  def install
    features = "metal" if OS.mac?
    system "cargo", "install", *std_cargo_args(features:)
    man1.install "man/microgpt.1"
    generate_completions_from_executable(bin/"microgpt", "completions")
  end

  test do
    (testpath/"names.txt").write "ada\nalan\nedsger\ngrace\n"
    system bin/"microgpt", "train", "--input", "names.txt", "--steps", "20", "--output", "model"
    samples = shell_output("#{bin}/microgpt generate --model-dir model --num-samples 3")
    assert_equal 3, samples.lines.count
  end
end
