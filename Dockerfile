# For clusters with GPUs: PyTorch's own image has CUDA and its compiler; ours adds the dependencies and the source.
#
#   docker build -t REGISTRY/mealrec .
#
# The CUDA kernels of the two usual architectures are compiled into the image, so that no pod waits for them.
FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-devel

# Not pinned: the base image's Ubuntu has one version of each, with its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client pdsh \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mealrec
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mealrec mealrec
COPY shards shards
COPY trainer trainer
COPY tune tune
COPY launch.sh environment.sh environment.py ./
# The image's own torch stays: it is the version that constraints.txt names.
RUN pip install --no-cache-dir -c constraints.txt -e ".[tune,s3]" \
    && python -m mealrec.ops build cuda --arch 80,90

ENV PYTHONPATH=/opt/mealrec
CMD ["./launch.sh", "--help"]
