# docker build -t fedjax-mri .                                     for CPUs
# docker build -t fedjax-mri --build-arg EXTRAS=cuda,serve .       for NVIDIA GPUs; run it with --gpus all
# docker run -v $PWD/runs:/app/runs fedjax-mri train configs/quickstart.py --out runs/quickstart
FROM python:3.12-slim
ARG EXTRAS=dicom,privacy,secure,serve,weights
WORKDIR /app
COPY requirements.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir -c requirements.lock pip
COPY fedjax_mri fedjax_mri
RUN pip install --no-cache-dir -c requirements.lock ".[$EXTRAS]"
COPY configs configs
COPY studies studies
RUN useradd --create-home user && chown user /app
USER user
ENTRYPOINT ["fedjax-mri"]
CMD ["--help"]
