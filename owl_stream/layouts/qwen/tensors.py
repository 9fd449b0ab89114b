"""Names of the tensors that media have, as the models' processors call them."""

IMAGES, VIDEOS = "pixel_values", "pixel_values_videos"
IMAGE_GRIDS, VIDEO_GRIDS, SECONDS = "image_grid_thw", "video_grid_thw", "second_per_grid_ts"
